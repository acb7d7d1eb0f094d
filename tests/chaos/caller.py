"""A client of a text conversation; it comes back by the rules of docs/websocket.md and remembers what it was shown."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urljoin

import aiohttp

from tests.door import joining

FIRST_PAUSE_S, LONGEST_PAUSE_S, MOVE_S = 0.25, 8.0, 0.1
FINAL_CODES = {1000, 1008, 1009}
FORGOTTEN = 4404
WRONG_REQUEST = {400, 401, 403, 404}
"""Coming again does not help."""
CLOSE = aiohttp.ClientWSTimeout(ws_close=1)


class Caller:
    """One conversation, over as many connections as it takes."""

    def __init__(self, http: aiohttp.ClientSession, home: Callable[[], str]) -> None:
        self.session_id = ""
        self.phase = ""
        self.shown: dict[str, str] = {}
        """Playback id → what the agent said."""
        self.connections = 0
        self.away_ms: list[float] = []
        """From each loss of its connection until it was back in its conversation."""
        self.over = ""
        """Why it is over: the conversation ended, or was forgotten."""
        self._http = http
        self._home = home
        """Where a load balancer sends everybody."""
        self._token = ""
        self._place = self._moved_to = ""
        self._failures = 0
        self._lost_s = 0.0
        self._listening = asyncio.Event()
        self._work = asyncio.create_task(self._run())

    async def listening(self) -> str:
        """The session id, as soon as the conversation is there for certain: a committed phase was shown."""
        await self._listening.wait()
        assert not self.over, self.over
        return self.session_id

    @property
    def place(self) -> str:
        """The address of the node that it talks to, or talked to last."""
        return self._place

    async def leave(self) -> None:
        self._work.cancel()
        with suppress(asyncio.CancelledError):
            await self._work

    async def _run(self) -> None:
        while not self.over:
            moved_to, self._moved_to = self._moved_to, ""
            address = moved_to or (self._place if self._place and self._failures % 2 else self._home())
            with suppress(aiohttp.ClientError, OSError):  # a node that is gone
                await self._converse(address)
            if not self.over:
                self._lost_s = self._lost_s or time.monotonic()
                await self._pause()

    async def _pause(self) -> None:
        longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._failures)
        pause_s = longest_s * random.uniform(0.5, 1)
        if self._moved_to and not self._failures:
            pause_s = random.uniform(0, MOVE_S)
        self._failures += 1
        await asyncio.sleep(pause_s)

    async def _converse(self, address: str) -> None:
        ids = {"session_id": self.session_id, "resume_token": self._token} if self.session_id else {}
        url = urljoin(f"{address}/", "orchestrate")
        async with asyncio.timeout(5):  # a node that was stopped takes the connection and says nothing
            try:
                socket = await self._http.ws_connect(url, **joining(ids), heartbeat=5, timeout=CLOSE)
            except aiohttp.WSServerHandshakeError as refusal:
                if refusal.status in WRONG_REQUEST:
                    self.over = f"refused with {refusal.status}"
                    self._listening.set()
                raise
        async with socket:
            self.connections += 1
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:  # else a connection that was lost
                    self._hear(message.json(), address)
        if socket.close_code in FINAL_CODES:
            self.over = self.over or f"closed with {socket.close_code}"
        elif socket.close_code == FORGOTTEN and self._listening.is_set():
            self.over = "forgotten"
        elif socket.close_code == FORGOTTEN:  # it had been promised, and was never committed: another one, then
            self.session_id = self._token = ""

    def _hear(self, message: dict[str, str], address: str) -> None:
        match message["type"]:
            case "session":
                self.session_id, self._token = message["session_id"], message["resume_token"]
                self._place, self._failures = address, 0
                if self._lost_s:
                    self.away_ms.append((time.monotonic() - self._lost_s) * 1_000)
                    self._lost_s = 0.0
            case "phase":
                self.phase = message["phase"]
                if self.phase == "LISTENING":
                    self._listening.set()
            case "reply":
                self.shown[message["playback_id"]] = message["text"]
            case "moved":
                self._moved_to = self._place = message["address"]
            case "ended":
                self.over = message["reason"]
