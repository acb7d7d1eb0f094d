"""A progress bar on standard error, on a terminal alone, for what takes more than a moment."""

import sys
import time

from cli.safe_output import raw

WIDTH = 30
EVERY_S = 0.1
FIRST_S = 0.5


class Progress:
    """Draws the finished share and the time left. Close it before printing anything else."""

    def __init__(self, total: int, *, is_wanted: bool = True) -> None:
        self._total = total
        self._is_shown = is_wanted and total > 0 and sys.stderr.isatty()
        self._done = 0
        self._began = time.monotonic()
        self._next = self._began + FIRST_S
        self._is_drawn = False

    def advance(self, amount: int) -> None:
        self.reach(self._done + amount)

    def reach(self, done: int) -> None:
        """Set the finished amount, out of `total`."""
        self._done = done
        if self._is_shown and (now := time.monotonic()) >= self._next:
            self._next = now + EVERY_S
            self._is_drawn = True
            share = min(1.0, done / self._total)
            bar = "#" * int(share * WIDTH)
            left_s = (now - self._began) * (1 - share) / share if share else 0
            print(f"\r[{bar:{WIDTH}}] {share:4.0%}  {left_s:.0f} s left ", end="", file=raw(sys.stderr), flush=True)

    def close(self) -> None:
        if self._is_drawn:
            print("\r" + " " * (WIDTH + 30) + "\r", end="", file=raw(sys.stderr), flush=True)
