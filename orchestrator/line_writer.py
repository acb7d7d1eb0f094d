"""Writes lines in a thread: the event loop never waits for an unread pipe, a slow terminal or a full disk."""

import os
import queue
import select
import threading
import time
from collections.abc import Callable
from weakref import WeakSet

MOST_WAITING = 10_000
"""Queue limit in lines, some 1 MB. Beyond it, lines are dropped and counted."""
STUCK_S = 2.0
"""A longer write counts as stuck, so the first warning does not wait for a full queue."""
UNREAD = "nobody reads it"
CLOSE_S = 1.0
"""Timeout for writing the queued lines on close."""


_all: "WeakSet[LineWriter]" = WeakSet()


def lost_lines() -> int:
    """Return how many lines all writers of this process have dropped."""
    return sum(writer.lost for writer in list(_all))


class LineWriter:
    """Passes lines to `write`, in order. `put` never waits and never raises.

    Lines that cannot be written are counted in `lost`. A failure is reported once when it begins, and once when it
    ends, with the number of lost lines.
    """

    def __init__(self, write: Callable[[str], None], name: str, tell: Callable[[str], None]) -> None:
        """`write` runs in the writer's thread, and may block or raise. `tell` reports failures, in any thread."""
        self.lost = 0
        self._write = write
        self._name = name
        self._tell = tell
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_WAITING)
        self._busy_since_s = 0.0
        self._lost_before = 0
        """The part of `lost` that was already reported."""
        self._trouble = ""
        _all.add(self)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)  # it may hang for ever
        self._thread.start()

    def put(self, line: str) -> None:
        """Queue a line."""
        try:
            self._lines.put_nowait(line)
            is_full = False
        except queue.Full:
            self.lost += 1
            is_full = True
        busy_since_s = self._busy_since_s
        if is_full or (busy_since_s and time.monotonic() - busy_since_s > STUCK_S):
            self._begin(UNREAD)

    def close(self) -> None:
        """Write the queued lines, for at most twice CLOSE_S. Report lost lines."""
        try:
            self._lines.put(None, timeout=CLOSE_S)
            self._thread.join(CLOSE_S)
        except queue.Full:
            pass
        if self._thread.is_alive():
            self._begin(UNREAD)
            self.lost += self._lines.qsize()
        if self.lost > self._lost_before:
            self._end("at the end")

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._busy_since_s = time.monotonic()
            try:
                self._write(line)
            except Exception as error:  # noqa: BLE001 - `write` may be anybody's
                self.lost += 1
                self._begin(str(error) or type(error).__name__)
            else:
                self._end("it can be written again")
            finally:
                self._busy_since_s = 0.0

    def _begin(self, trouble: str) -> None:
        if not self._trouble:
            self._trouble = trouble
            self._tell(f"{self._name} cannot be written ({trouble}); lines are dropped, and calls go on")

    def _end(self, how: str) -> None:
        if self.lost == self._lost_before and not self._trouble:
            return
        lost, self._lost_before = self.lost - self._lost_before, self.lost
        self._trouble = ""
        self._tell(f"{self._name}: {how}; {lost} lines were dropped")


def write_to(fd: int, encoding: str) -> Callable[[str], None]:
    """Return a function that writes a line to a file descriptor.

    Not through sys.stdout: an interpreter that exits while a thread holds its lock aborts.
    """

    def write(line: str) -> None:
        left = memoryview(f"{line}\n".encode(encoding, "backslashreplace"))
        while left:
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:  # the parent process made it non-blocking
                select.select([], [fd], [])

    return write
