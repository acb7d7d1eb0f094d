"""Serves the real talk page with a scripted `/orchestrate` behind it, so that a test can be the server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import WSMsgType, web

import orchestrator.gateway
from orchestrator.gateway.messages import ClientMessage, ServerMessage, encode, parse_client_message
from orchestrator.gateway.server import SECURITY_HEADERS

STATIC = Path(orchestrator.gateway.__file__).parent / "static"
PATIENCE_S = 10.0


class Wire:
    """The server's end of one connection of the page."""

    def __init__(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        self.query = dict(request.query)
        for one in request.headers.get("Sec-WebSocket-Protocol", "").split(", "):
            if one.startswith("resume."):
                self.query["resume_token"] = one.removeprefix("resume.")
        self._request = request
        self._socket = socket
        self._inbox: asyncio.Queue[ClientMessage] = asyncio.Queue()

    async def send(self, *messages: ServerMessage) -> None:
        for message in messages:
            await self._socket.send_str(encode(message))

    async def receive(self) -> ClientMessage:
        """The next message of the page; it must be one of the protocol."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._inbox.get()

    def unread(self) -> int:
        """How many messages came that no test took."""
        return self._inbox.qsize()

    async def close(self, code: int, reason: str = "") -> None:
        await self._socket.close(code=code, message=reason.encode())

    def drop(self) -> None:
        """Breaks the connection without a word, as a network does."""
        assert self._request.transport is not None
        self._request.transport.abort()

    async def pump(self) -> None:
        async for message in self._socket:
            assert message.type is WSMsgType.TEXT
            self._inbox.put_nowait(parse_client_message(message.data))


class PageServer:
    """Where the page is (`url`), and the connections it makes (`connection()`)."""

    def __init__(self, port: int, wires: asyncio.Queue[Wire], site: web.TCPSite) -> None:
        self.port = port
        self._site = site
        self.url = f"http://127.0.0.1:{port}/"
        self._wires = wires

    async def connection(self) -> Wire:
        """The next connection that the page opens."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._wires.get()

    async def stop_listening(self) -> None:
        """Refuses new connections from now on."""
        await self._site.stop()

    def untaken(self) -> int:
        """How many connections the page opened that no test took."""
        return self._wires.qsize()


@contextlib.asynccontextmanager
async def page_server() -> AsyncIterator[PageServer]:
    """A server on a free port of the loopback, for the length of a test."""
    wires: asyncio.Queue[Wire] = asyncio.Queue()

    async def orchestrate(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("orch.v1",))
        await socket.prepare(request)
        wire = Wire(request, socket)
        wires.put_nowait(wire)
        await wire.pump()
        return socket

    async def index(_: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / "index.html")

    async def protect(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(SECURITY_HEADERS)

    app = web.Application()
    app.on_response_prepare.append(protect)
    app.router.add_get("/", index)
    app.router.add_get("/orchestrate", orchestrate)
    app.router.add_static("/static/", STATIC)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield PageServer(runner.addresses[0][1], wires, site)
    finally:
        await runner.cleanup()
