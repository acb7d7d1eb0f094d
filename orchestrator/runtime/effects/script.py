"""Script: the texts of one answer, in the order in which they are spoken; more may come while they are."""

import asyncio
from collections import deque


class Script:
    """The texts of one playback, each with its number. `add` never waits; a reader waits for the next text."""

    def __init__(self, text: str, index: int = 0, *, is_complete: bool = True) -> None:
        self._texts = deque([(index, text)])
        self._is_complete = is_complete
        self._more = asyncio.Event()

    def add(self, index: int, text: str, *, is_last: bool) -> None:
        """Add a text; an empty one only says that the script is complete."""
        if text:
            self._texts.append((index, text))
        self._is_complete = is_last
        self._more.set()

    async def next(self) -> tuple[int, str] | None:
        """The next text, which stays until it is taken; None: the script is over."""
        while not self._texts and not self._is_complete:
            self._more.clear()
            await self._more.wait()
        return self._texts[0] if self._texts else None

    def take(self) -> None:
        """Go on to the text after the next one."""
        self._texts.popleft()
