"""Clocks of the runtime: the wall clock for dates, the monotonic clock for durations."""

import time
from collections.abc import Callable

LONGEST_GAP_US = 600_000_000
"""Limit, in microseconds, on the time that a takeover adds to a session's clock. Without a limit, a clock of Redis that
was set ahead could add hours.
"""


def now_us() -> int:
    """Return microseconds since 1970. The wall clock can be set, so never measure durations with this function."""
    return time.time_ns() // 1000


def monotonic_us() -> int:
    """Return microseconds since some moment, at the rate of real time. Setting the wall clock does not change it."""
    return time.monotonic_ns() // 1000


class SteadyClock:
    """A clock that starts at a given date and runs at the rate of real time. Setting the wall clock does not move it.

    Each live session has a SteadyClock (docs/decisions/022): it stamps the events of the session's log, and the
    session's timers run by it. The clock of a new session starts at the date of the wall clock. After a takeover,
    `after_takeover` makes the session's clock.
    """

    def __init__(self, at_us: int, monotonic: Callable[[], int] = monotonic_us) -> None:
        self._monotonic = monotonic
        self._ahead_us = at_us - monotonic()

    def now_us(self) -> int:
        """Return microseconds since 1970."""
        return self._monotonic() + self._ahead_us


def after_takeover(
    last_us: int, committed_us: int, server: SteadyClock, monotonic: Callable[[], int] = monotonic_us
) -> SteadyClock:
    """Return the clock of a session that this node has taken over.

    The clock starts at `last_us`, the time of the log's last event, plus the time since the commit of that event (at
    most LONGEST_GAP_US). The time since the commit is measured on the clock of Redis, because the clocks of two nodes
    may differ.

    Args:
        last_us: time of the last event in the log.
        committed_us: time on the clock of Redis when that event was committed. 0: unknown, since an older release did
            not store it; the returned clock then starts at `last_us`.
        server: the clock of Redis, read when the lease was acquired.
        monotonic: returns the microseconds of a clock that cannot be set. The returned clock runs at its rate.

    """
    gap_us = server.now_us() - committed_us if committed_us else 0
    return SteadyClock(last_us + min(max(0, gap_us), LONGEST_GAP_US), monotonic)
