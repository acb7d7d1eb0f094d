"""The clock of the runtime: what time it is."""

import time


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000
