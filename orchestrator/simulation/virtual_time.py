"""Virtual time: runs scheduled calls in order, and jumps from one to the next."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

START_US = 1_000_000_000_000


class VirtualTime:
    """A clock that shows the due time of the last call it ran."""

    def __init__(self) -> None:
        self.now_us = START_US
        self._due: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, delay_us: int, do: Callable[..., object], *args: Any) -> None:
        """Call `do` after `delay_us`. Calls due at the same time run in the order of scheduling."""
        self._count += 1
        heappush(self._due, (self.now_us + delay_us, self._count, do, args))

    def run(self, until: Callable[[], bool], limit_us: int) -> None:
        """Run due calls until the condition holds, nothing is due any more, or `limit_us` has passed."""
        end_us = self.now_us + limit_us
        due = self._due
        while due and due[0][0] <= end_us and not until():
            self.now_us, _, do, args = heappop(due)
            do(*args)
