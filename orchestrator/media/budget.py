"""How much of something a caller may have handled: a token bucket over the wall clock."""

import time


class Budget:
    """Refills by `per_s` units a second, and holds at most `most`; it begins full."""

    def __init__(self, per_s: float, most: float) -> None:
        self._per_s = per_s
        self._most = most
        self._left = most
        self._at_s = time.monotonic()

    def take(self, units: float = 1.0) -> bool:
        """Spend the units if they are there; False, and nothing is spent, if they are not."""
        now_s = time.monotonic()
        self._left = min(self._most, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if units > self._left:
            return False
        self._left -= units
        return True
