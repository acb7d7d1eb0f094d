"""Script: a queue of the texts that one playback speaks in order. More texts can be added while the playback speaks."""

import asyncio
from collections import deque


class Script:
    """A queue of the texts of one playback, each with its number. `add` never waits; `next` waits for a text."""

    def __init__(self, text: str, index: int = 0, *, is_complete: bool = True) -> None:
        self._texts = deque([(index, text)])
        self._is_complete = is_complete
        self._more = asyncio.Event()

    def add(self, index: int, text: str, *, is_last: bool) -> None:
        """Add a text to the end of the queue. `is_last`: no text follows; `text` may then be empty."""
        if text:
            self._texts.append((index, text))
        self._is_complete = is_last
        self._more.set()

    async def next(self) -> tuple[int, str] | None:
        """Wait for the next text and return (number of the text, text). None: no text is left, and none will be added.

        Does not remove the text: `take` does.
        """
        while not self._texts and not self._is_complete:
            self._more.clear()
            await self._more.wait()
        return self._texts[0] if self._texts else None

    def take(self) -> None:
        """Remove the text that `next` returned last."""
        self._texts.popleft()
