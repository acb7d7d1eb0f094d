"""Delays background work until no turn needs the event loop: history and telemetry run then, in small slices."""

import asyncio
import time

QUIET_S = 0.004
"""Idle time that counts as quiet. Events within a turn follow faster, except while a service is asked."""
LOOK_S = 0.002
MOST_S = 0.02
"""Longest wait: with many calls, some turn is always under way."""


class Quiet:
    """`note` marks each committed event; background work awaits `moment` before each slice."""

    def __init__(self) -> None:
        self._last_s = 0.0

    def note(self) -> None:
        """Mark that an event was committed just now."""
        self._last_s = time.monotonic()

    async def moment(self) -> None:
        """Yield, then return after QUIET_S without a commit, or after MOST_S at the latest."""
        await asyncio.sleep(0)
        until_s = time.monotonic() + MOST_S
        while time.monotonic() < min(until_s, self._last_s + QUIET_S):  # noqa: ASYNC110 - silence sets no event
            await asyncio.sleep(LOOK_S)
