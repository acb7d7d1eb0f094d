"""How many messages one connected client may send: a token bucket, and a smaller one for bad ones."""

import time

MESSAGES_PER_S = 30
BURST = 60
BAD_BURST = 10


class RateLimit:
    """Far above what a conversation needs, far below what would hurt others."""

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._bad_left = BAD_BURST
        self._at_s = time.monotonic()

    def allows(self) -> bool:
        """Whether one more message is fine now."""
        now_s = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now_s - self._at_s) * MESSAGES_PER_S)
        self._at_s = now_s
        self._tokens -= 1
        return self._tokens >= 0

    def allows_bad(self) -> bool:
        """Whether one more bad message is fine; they are counted over the whole connection."""
        self._bad_left -= 1
        return self._bad_left >= 0
