"""Delays background work until no turn needs the event loop: history and telemetry run then, in small slices."""

import asyncio
import time

QUIET_S = 0.004
"""Idle time that counts as quiet. Events within a turn follow faster, except while a service is asked."""
LOOK_S = 0.002
MOST_S = 0.02
"""Longest wait: with many calls, some turn is always under way."""


class Quiet:
    """Finds moments without commits for background work, which awaits `moment` before each slice of its work. `note`
    must be called for each committed event.
    """

    def __init__(self) -> None:
        self._last_s = 0.0

    def note(self) -> None:
        """Mark that an event was committed just now."""
        self._last_s = time.monotonic()

    async def moment(self) -> None:
        """Wait until no event was committed for QUIET_S, MOST_S at most. Always lets other tasks run first."""
        await asyncio.sleep(0)
        until_s = time.monotonic() + MOST_S
        while time.monotonic() < min(until_s, self._last_s + QUIET_S):  # noqa: ASYNC110 - silence sets no event
            await asyncio.sleep(LOOK_S)
