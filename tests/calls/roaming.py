"""A caller that comes back by itself when its connection is lost, as docs/websocket.md says, and calls again."""

import asyncio
import random
from collections.abc import Callable
from itertools import cycle
from typing import Any

import aiohttp

from tests.calls.service import Caller, Service
from tests.door import joining
from tests.media.peer import AUDIBLE_RMS

FIRST_PAUSE_S, LONGEST_PAUSE_S, MOVE_S = 0.25, 8.0, 0.1
FINAL_CODES = {1000, 1008, 1009, 4404}


class RoamingCaller(Caller):
    """It begins at the first service; where it loses its place it tries that and the others in turn."""

    def __init__(self, services: list[Service], **options: Any) -> None:
        super().__init__(services[0], **options)
        self.peers = [self.peer]
        """One for each call it made; the last is the present one."""
        self._services = {service.url: service for service in services}
        self.places = cycle([service.url for service in services[1:] + services[:1]])
        self.place = services[0].url
        """Where it is connected, or tries to be."""
        self.on_phase: dict[str, Callable[[], None]] = {}
        """What to do at once when a phase is told for the first time."""
        self._failures = 0
        self._moved_to = self._token = ""
        self._calling: asyncio.Task[None] | None = None

    def audible(self, after_s: float) -> list[float]:
        """When the agent was audible, in any of the calls (time.monotonic)."""
        return [f.at_s for peer in self.peers for f in peer.heard if f.at_s > after_s and f.rms > AUDIBLE_RMS]

    def breaks(self) -> None:
        """Its connection breaks without a word, as with its network; it comes back by itself."""
        self._socket._response.connection.transport.abort()

    async def __aexit__(self, *details: object) -> None:
        if self._calling is not None:
            self._calling.cancel()
        for peer in self.peers[:-1]:
            await peer.close()
        await super().__aexit__(*details)

    async def _read(self) -> None:
        await super()._read()
        while self._socket.close_code not in FINAL_CODES:
            await self._come_back()
            await super()._read()

    async def _come_back(self) -> None:
        """With the resume token; a caller that got none, since it was sent away at once, shows a new token."""
        while True:
            moved_to, self._moved_to = self._moved_to, ""
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._failures) * random.uniform(0.5, 1)
            if moved_to and not self._failures:
                pause_s = random.uniform(0, MOVE_S)
            self._failures += 1
            await asyncio.sleep(pause_s)
            self.place = moved_to or next(self.places)
            ids = {"session_id": self.session_id, "resume_token": self._token}
            shown = joining(ids) if self._token else joining({}, self._services[self.place].token())
            try:
                self._socket = await self._http.ws_connect(f"{self.place}/orchestrate", **shown)
            except aiohttp.ClientError:
                continue
            return

    def _heard(self, message: dict[str, Any]) -> None:
        super()._heard(message)
        if message["type"] == "phase" and (do := self.on_phase.pop(message["phase"], None)):
            do()
        if message["type"] == "session":
            came_back, self._token, self._failures = bool(self._token), message["resume_token"], 0
            if came_back:
                self._calling = asyncio.create_task(self._call_again())
        elif message["type"] == "moved":
            self._moved_to = message["address"]

    async def _call_again(self) -> None:
        """The audio went to a node that is gone: offer a new call."""
        self.peers.append(self._peers())
        await self.call(self.peers[-1])
