"""Writes the output of long-running commands to the standard streams without waiting for their readers."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from orchestrator.line_writer import LineWriter, write_to
from orchestrator.safe_text import escaped

logger = logging.getLogger(__name__)


class LogWriter(logging.Handler):
    """Logs to standard error. Reports lost lines there as soon as it can be written again."""

    def __init__(self) -> None:
        super().__init__()
        self._again: Callable[[str], None] = write_of(sys.stderr)
        self._writer = LineWriter(self._again, "the log", self._tell)

    @property
    def lost(self) -> int:
        return self._writer.lost

    def say(self, words: str) -> None:
        """Write a line for people, in order with the log."""
        self._writer.put(words)

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.put(self.format(record))

    def close(self) -> None:
        self._writer.close()
        super().close()

    def _tell(self, words: str) -> None:
        self._writer.put(f"WARNING {words}")


def is_missing(stream: TextIO | None) -> bool:
    """Whether output to a stream is discarded: it was closed (see prepare_streams) or is /dev/null."""
    try:
        return stream is None or os.path.samestat(os.fstat(stream.fileno()), Path(os.devnull).stat())
    except OSError:  # none of the system's, but something in memory
        return False


def write_of(stream: TextIO) -> Callable[[str], None]:
    """Return a function that writes a line to a standard stream, with characters that drive a terminal escaped."""
    try:
        write = write_to(stream.fileno(), stream.encoding)
    except OSError:  # none of the system's, but something in memory
        return lambda line: print(line, file=stream, flush=True)
    return lambda line: write(escaped(line))
