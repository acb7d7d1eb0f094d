"""Clocks of the runtime: the wall clock for dates, the monotonic clock for durations."""

import time
from collections.abc import Callable

LONGEST_GAP_US = 600_000_000
"""Limit on the time between two owners of a session, in case the clock of Redis was set ahead meanwhile."""


def now_us() -> int:
    """Return microseconds since 1970. This clock can be set, so never measure durations with it."""
    return time.time_ns() // 1000


def monotonic_us() -> int:
    """Return microseconds since some moment, at the rate of real time. Setting the wall clock does not change it."""
    return time.monotonic_ns() // 1000


class SteadyClock:
    """Starts at a date and goes on at the rate of real time. Setting the wall clock does not move it.

    Each live session has one: the time of its log (docs/decisions/022).
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
    """Return the clock of a session whose log goes on here, under a new owner.

    Args:
        last_us: time of the last event in the log.
        committed_us: the clock of Redis when that event was committed; 0 where an older release has not noted it.
        server: the clock of Redis as this node knows it. No two nodes' clocks are ever compared.
        monotonic: the monotonic clock, which cannot be set.

    """
    gap_us = server.now_us() - committed_us if committed_us else 0
    return SteadyClock(last_us + min(max(0, gap_us), LONGEST_GAP_US), monotonic)
