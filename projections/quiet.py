"""A moment in which no turn is under way: what is done behind the calls is done then, a little at a time."""

import asyncio
import time

QUIET_S = 0.004
"""Within a turn, events follow each other faster; while a service is asked there is time."""
LOOK_S = 0.002
MOST_S = 0.02
"""Of waiting: where there are many calls, somebody is always in a turn."""


class Quiet:
    """Told of each committed event; asked by those who can wait."""

    def __init__(self) -> None:
        self._last_s = 0.0

    def note(self) -> None:
        """Something was committed."""
        self._last_s = time.monotonic()

    async def moment(self) -> None:
        """Give way; return when nothing was committed just now, or after so long."""
        await asyncio.sleep(0)
        until_s = time.monotonic() + MOST_S
        while time.monotonic() < min(until_s, self._last_s + QUIET_S):  # noqa: ASYNC110 - nobody tells that nothing happens
            await asyncio.sleep(LOOK_S)
