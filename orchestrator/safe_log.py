"""Filters all log records: removes secrets, users' words and control characters, and counts repetitions."""

import logging
import time
from collections import OrderedDict

from orchestrator.safe_text import named_error, printable, safe_error, safe_traceback, without_secrets

WINDOW_S = 10.0
MOST_IN_A_WINDOW = 20
"""Records of one kind per window. Further ones become one line with their count after the window."""
MOST_KINDS = 1_000
OURS = ("orchestrator", "projections", "events", "cli")


class SafeLog(logging.Filter):
    """Rewrites each record once: on the handlers of `orch serve`, and on orch's loggers inside another program.

    `mask` hides the words of users and services; it is on unless only this machine can connect.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mask = True
        self._kinds: OrderedDict[tuple[str, int, str], _Kind] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "is_safe", False):
            return True
        record.is_safe = True
        self._say_counts()
        if record.levelno >= logging.WARNING and self._is_too_much(record):
            return False
        record.msg, record.args = self._message(record), None
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = safe_traceback(record.exc_info[1], mask=self.mask)
        if record.stack_info:
            record.stack_info = printable(record.stack_info, keep="\n\t")
        return True

    def _message(self, record: logging.LogRecord) -> str:
        try:
            template, arguments = str(record.msg), record.args
            if isinstance(record.msg, BaseException):
                template = named_error(record.msg, mask=self.mask)
            if isinstance(arguments, tuple):
                arguments = tuple(self._argument(one) for one in arguments)
            text = template % arguments if arguments else template
        except Exception as error:  # noqa: BLE001 - a wrong format must not cost the record, nor end in a traceback
            text = f"{record.msg} (its arguments do not fit: {type(error).__name__})"
        return printable(without_secrets(text), keep="\n\t") if "\n" in text else printable(without_secrets(text))

    def _argument(self, argument: object) -> object:
        if isinstance(argument, BaseException):
            return safe_error(argument, mask=self.mask)
        return printable(argument) if isinstance(argument, str) else argument

    def _is_too_much(self, record: logging.LogRecord) -> bool:
        key = (record.name, record.levelno, str(record.msg))
        kind = self._kinds.setdefault(key, _Kind(time.monotonic() + WINDOW_S))
        kind.seen += 1
        if len(self._kinds) > MOST_KINDS:
            self._kinds.popitem(last=False)
        return kind.seen > MOST_IN_A_WINDOW

    def _say_counts(self) -> None:
        """Log the counts of records held back in ended windows. Windows end in the order in which they began."""
        now = time.monotonic()
        while self._kinds and next(iter(self._kinds.values())).until < now:
            (name, level, template), kind = self._kinds.popitem(last=False)
            if (more := kind.seen - MOST_IN_A_WINDOW) > 0:
                words = "%d more like this within %g s: %s"
                logging.getLogger(name).log(level, words, more, WINDOW_S, template)


class _Kind:
    """Count of the records of one logger, level and message template."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.seen = 0


SAFE_LOG = SafeLog()


def guard_our_loggers() -> None:
    """Filter the records of orch's loggers, before they reach the handlers of a user's program."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in OURS:
            logging.getLogger(name).addFilter(SAFE_LOG)
