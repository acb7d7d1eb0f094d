"""A client of `/orchestrate` for tests, and the service it talks to."""

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from tests.runtime.support import PATIENCE_S, Running


@dataclass
class Service:
    """A node behind an HTTP server."""

    running: Running
    runner: web.AppRunner
    url: str


class Talker:
    """One connection, seen from the client's side."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send_json({"type": kind} | fields)

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The next message of this kind with these fields."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self.socket.receive()
                assert message.type is aiohttp.WSMsgType.TEXT, f"{message} instead of {kind} {fields}"
                self.heard.append(message.json())
                if fields.items() | {"type": kind}.items() <= self.heard[-1].items():
                    return self.heard[-1]

    async def spoken(self) -> dict[str, Any]:
        """As listening, when the first turn is over: only then the session has a log."""
        session = await self.listening()
        await self.say("text", text="good morning")
        await self.until("phase", phase="LISTENING", reason="playback_done")
        return session

    async def closed(self) -> int:
        """Everything that is said until the connection is closed; its close code."""
        async with asyncio.timeout(PATIENCE_S):
            async for message in self.socket:
                self.heard.append(message.json())
        assert self.socket.close_code is not None
        return self.socket.close_code

    def kinds(self) -> list[str]:
        return [message["type"] for message in self.heard]

    async def listening(self) -> dict[str, Any]:
        """The session message, when the conversation has begun."""
        session = await self.until("session")
        await self.until("phase", phase="LISTENING")
        return session
