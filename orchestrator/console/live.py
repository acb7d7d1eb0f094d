"""Follows live sessions for viewers: server-sent events with the version as id, one fold for all of them.

A message is a list of increments (drawing.py), a step each. The last of them has the parts that each step replaces.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web
from redis.exceptions import RedisError

from events.codec import BadEventError
from events.envelope import Event
from orchestrator.console.drawing import Drawing
from orchestrator.console.library import Library
from orchestrator.replay.redact import Hiding
from orchestrator.safe_text import one_line, safe_error
from orchestrator.teardown import end_within

logger = logging.getLogger(__name__)

BEAT_S = 15.0
"""A comment is sent after so much silence, so that a connection whose reader has gone is noticed."""
Hide = Callable[[Event], Event]


class Following:
    """One followed session: its increments since the beginning, for any number of viewers."""

    def __init__(self, library: Library, key: str, hide: Hide) -> None:
        self.viewers = 0
        self.is_complete = False
        """Whether the session has ended and all of it is here."""
        self._parts: list[tuple[int, bytes]] = []
        """Last version of each step, and its increment as JSON."""
        self._is_over = False
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._follow(library, key, hide), name=f"console:{key}")

    async def after(self, version: int) -> AsyncGenerator[tuple[int, bytes] | None, None]:
        """The increments after a version, each once and in order: those that are there at a time, as one list of JSON
        with its last version. None is a beat in silence. Ends with the session, or when it cannot be followed.
        """
        place = 0
        while True:
            new = [(at, data) for at, data in self._parts[place:] if at > version]
            place = len(self._parts)
            if new:
                yield new[-1][0], b"[%b]" % b",".join(data for _, data in new)
            elif self._is_over:
                return
            elif not await self._wait(place):
                yield None

    async def end(self) -> None:
        self._task.cancel()
        await end_within("following", self._task)

    async def _wait(self, place: int) -> bool:
        """Wait for an increment at this place, or for the end; False: nothing came for BEAT_S."""
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S), self._changed:
                await self._changed.wait_for(lambda: len(self._parts) > place or self._is_over)
                return True
        return False

    async def _follow(self, library: Library, key: str, hide: Hide) -> None:
        drawing: Drawing | None = None
        try:
            async for new in library.follow(key, 0):
                drawing = drawing or Drawing(new[0][0])
                parts = [(step[-1].version, drawing.add([*map(hide, step)])) for step in new]
                parts[-1][1].update(drawing.now())
                async with self._changed:
                    self._parts += [(at, _json(part)) for at, part in parts]
                    self._changed.notify_all()
            self.is_complete = True
        except (OSError, RedisError, BadEventError) as error:
            self.is_complete = isinstance(error, BadEventError)  # the viewers need not come back: nobody can read on
            logger.warning("session %s is not followed any longer: %s", one_line(key), safe_error(error))
        finally:
            self._is_over = True
            async with self._changed:
                self._changed.notify_all()


class Followings:
    """The sessions that somebody follows now."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._found: dict[tuple[str, bool], Following] = {}

    @asynccontextmanager
    async def following(self, key: str, *, reads_words: bool) -> AsyncGenerator[Following, None]:
        """Follow a session, together with its other viewers who may read as much."""
        name = key, reads_words
        one = self._found.get(name) or Following(self._library, key, Hiding("none" if reads_words else "default"))
        self._found[name] = one
        one.viewers += 1
        try:
            yield one
        finally:
            one.viewers -= 1
            if not one.viewers:
                self._found.pop(name, None)
                await one.end()


async def stream(request: web.Request, one: Following, version: int) -> web.StreamResponse:
    """Send the increments after a version as server-sent events until the session or the viewer ends."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    with suppress(ConnectionError):
        await response.prepare(request)
        await response.write(b"retry: 200\n\n")
        async for part in one.after(version):
            await response.write(b":\n\n" if part is None else b"id: %d\ndata: %s\n\n" % part)
        if one.is_complete:  # else the viewer comes back
            await response.write(b"event: end\ndata: {}\n\n")
    return response


def _json(part: dict[str, Any]) -> bytes:
    return json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode()


def last_seen(request: web.Request) -> int:
    """The last version that the viewer has: of the connection that broke, else of its page."""
    texts: list[Any] = [request.headers.get("Last-Event-ID", ""), request.query.get("after", "")]
    return next((int(text) for text in texts if text.isascii() and text.isdigit() and len(text) < 17), 0)
