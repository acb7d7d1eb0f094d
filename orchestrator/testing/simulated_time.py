"""Virtual time: things that are due, in order; time jumps from one to the next."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

START_US = 1_000_000_000


class VirtualTime:
    """A clock that shows when the last thing that was due was done."""

    def __init__(self) -> None:
        self.now_us = START_US
        self._due: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, delay_us: int, do: Callable[..., None], *args: Any) -> None:
        """Do something later; of two things due at once, the one that was named first comes first."""
        self._count += 1
        heappush(self._due, (self.now_us + delay_us, self._count, do, args))

    def run(self, until: Callable[[], bool], limit_us: int) -> None:
        """Go on until the condition holds, nothing is due any more, or so much time has passed."""
        end_us = self.now_us + limit_us
        due = self._due
        while due and due[0][0] <= end_us and not until():
            self.now_us, _, do, args = heappop(due)
            do(*args)
