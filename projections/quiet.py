"""Delays background work until no turn needs the event loop. History and telemetry then work, in small slices."""

import asyncio
import time

QUIET_S = 0.004
"""Time without a committed event that counts as quiet, in seconds. Within a turn, events follow each other faster,
except while the turn waits for a service.
"""
LOOK_S = 0.002
MOST_S = 0.02
"""Longest wait for a quiet moment, in seconds. With many calls, some turn is always open, and no moment is quiet."""


class Quiet:
    """Finds moments without commits for background work. The background work awaits `moment` before each slice. The
    calling code must call `note` for each committed event.
    """

    def __init__(self) -> None:
        self._last_s = 0.0

    def note(self) -> None:
        """Mark that an event was committed just now."""
        self._last_s = time.monotonic()

    async def moment(self) -> None:
        """Let other tasks run once, then wait until no event was committed for QUIET_S. Returns after MOST_S at the
        latest, even if events keep coming.
        """
        await asyncio.sleep(0)
        until_s = time.monotonic() + MOST_S
        while time.monotonic() < min(until_s, self._last_s + QUIET_S):  # noqa: ASYNC110 - no asyncio.Event to await
            await asyncio.sleep(LOOK_S)
