"""A token bucket: a rate limit with a burst, over the wall clock."""

import time


class TokenBucket:
    """`per_s` tokens are added per second, up to `burst`; it begins full.

    >>> calls = TokenBucket(per_s=1.0, burst=2.0)
    >>> calls.take(), calls.take(), calls.take()
    (True, True, False)
    """

    def __init__(self, per_s: float, burst: float) -> None:
        self.per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at_s = time.monotonic()

    def take(self, tokens: float = 1.0) -> bool:
        """Take the tokens if all are left; returns whether they were."""
        if self.left < tokens:
            return False
        self._tokens -= tokens
        return True

    def reserve(self, longest_s: float) -> float | None:
        """Take one token in advance; returns the seconds until it is due, or None if that exceeds `longest_s`."""
        wait_s = self.wait_s()
        if wait_s > longest_s:
            return None
        self._tokens -= 1
        return wait_s

    def wait_s(self) -> float:
        """Seconds until a token is available."""
        return max(0.0, (1 - self.left) / self.per_s)

    @property
    def is_full(self) -> bool:
        """Whether the bucket is full: nothing was taken lately."""
        return self.left >= self._burst

    @property
    def left(self) -> float:
        """Tokens that can be taken now; negative while some are taken in advance."""
        now_s = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self.per_s)
        self._at_s = now_s
        return self._tokens
