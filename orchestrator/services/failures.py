"""How a service, a tool or a listener fails: the exceptions that ports raise."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class ServiceError(Exception):
    """A service refused, broke, or answered something unreadable. The message says which and what to do.

    `in_our_words` is the message without quotes of the service, which may repeat the user's words. It replaces the
    message in masked logs; without it they show only "the service failed".
    """

    def __init__(self, message: str = "", *, in_our_words: str = "") -> None:
        super().__init__(message)
        self.in_our_words = in_our_words or "the service failed"


class ToolError(ServiceError):
    """A tool call gave no result: it failed, took too long or was refused. The message says which.

    Tell the model, so that the caller is answered; not caught, it fails the answer.
    """


class ListenerGone(Exception):  # noqa: N818 - it reports what happened, no service is at fault
    """The connection that played or showed the speech has ended, or the speech was stopped."""


def is_cancelled(error: BaseException) -> bool:
    """Whether `error` is the cancellation of the current task. A CancelledError also comes from within, when something
    that the task awaits was cancelled by others: that is a failure like any other.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


@contextmanager
def cancellation_from_within_fails(what: str) -> Iterator[None]:
    """Raise ServiceError in place of a CancelledError that is not the current task's own. `what` was cancelled."""
    try:
        yield
    except asyncio.CancelledError as error:
        if is_cancelled(error):
            raise
        problem = f"{what} was cancelled from within"
        raise ServiceError(problem, in_our_words=problem) from error
