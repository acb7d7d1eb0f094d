"""Token buckets: rate limits with a burst."""

import time

BAD_MESSAGES = 10
"""Malformed messages accepted per connection; the next one closes it."""


class Bucket:
    """A token bucket: `per_s` tokens are added per second, up to `burst`."""

    def __init__(self, per_s: float, burst: float) -> None:
        self.per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at_s = time.monotonic()

    def take(self) -> bool:
        """Take one token; False if none is left."""
        if self._now() < 1:
            return False
        self._tokens -= 1
        return True

    def reserve(self, longest_s: float) -> float | None:
        """Take one token in advance; returns the seconds until it is due, or None if that exceeds `longest_s`."""
        wait_s = max(0.0, (1 - self._now()) / self.per_s)
        if wait_s > longest_s:
            return None
        self._tokens -= 1
        return wait_s

    def wait_s(self) -> float:
        """Seconds until a token is available."""
        return max(0.0, (1 - self._now()) / self.per_s)

    @property
    def left(self) -> float:
        """Tokens that can be taken now; negative while some are taken in advance."""
        return self._now()

    @property
    def is_full(self) -> bool:
        """Whether the bucket is full: nothing was taken lately."""
        return self._now() >= self._burst

    def _now(self) -> float:
        now_s = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self.per_s)
        self._at_s = now_s
        return self._tokens
