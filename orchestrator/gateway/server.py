"""The gateway's HTTP server: the WebSocket /orchestrate and its admission checks, the talk page, health, metrics."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from orchestrator.gateway.access.credentials import PROTOCOL, Proxies
from orchestrator.gateway.access.guard import Authenticate, Guard
from orchestrator.gateway.access.own_tokens import OwnTokens
from orchestrator.gateway.access.pages import Pages
from orchestrator.gateway.access.refusal import AccessRefused
from orchestrator.gateway.addresses import HTTP_BURST, HTTP_PER_S, Addresses
from orchestrator.gateway.call import Call
from orchestrator.gateway.client import WebSocketClient
from orchestrator.gateway.control_channel import TOO_MANY, ControlChannel
from orchestrator.gateway.door import Connections
from orchestrator.gateway.entrance import Entrance
from orchestrator.gateway.fair_share import INPUTS_PER_MINUTE, FairShare
from orchestrator.gateway.frames import FrameCount
from orchestrator.gateway.ice_servers import IceServers
from orchestrator.gateway.lines import LinePool
from orchestrator.gateway.messages import MAX_MESSAGE_BYTES, CloseCode
from orchestrator.gateway.origin import AllowedNames
from orchestrator.gateway.shares import Shares
from orchestrator.media.settings import MediaSettings
from orchestrator.runtime.effects.effects import Services
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node, NotReadyError
from orchestrator.safe_text import safe_error

logger = logging.getLogger(__name__)

CLOSE_S = 2.0
"""Timeout for the client's close frame when the server closes the connection."""
STATIC = Path(__file__).parent / "static"
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; media-src 'self' blob:; frame-ancestors 'none'; "
        "connect-src 'self' ws: wss:"  # a conversation may move to a node started after the page was loaded
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
LONGEST_FORM = 8 * 1024
"""Limit of a posted form, in bytes; it holds a token."""
RETURNS = 5
"""How many callers of one address may come back for each new conversation: all of an office do at once."""
ANSWER_S = 10.0
"""How long a request for anything but a conversation may take, its body included."""
ALIVE, CALLS = "/healthz", "/orchestrate"


class Gateway:
    """Serves one node over HTTP."""

    def __init__(
        self,
        node: Node,
        services: Services,
        *,
        media: MediaSettings,
        allowed_origins: Iterable[str] = (),
        allowed_hosts: Iterable[str] = (),
        is_private: bool = True,
        max_sessions: int = 20,
        inputs_per_minute: int = INPUTS_PER_MINUTE,
        metrics: Callable[[web.Request], Awaitable[web.Response]] | None = None,
        authenticate: Authenticate | None = None,
        is_development: bool = False,
        trusted_proxies: Iterable[str] = (),
        ice_servers: IceServers | None = None,
        console: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        """`authenticate`: the check of callers and operators; None lets everybody in. `is_development`: only this
        machine can connect, and its page comes in without being asked for a token. `console` starts the console if need
        be and returns its URL; None: there is none.
        """
        self._node = node
        self._services = services
        self._media = media
        self._is_private = is_private
        """On loopback the caller is the developer, so error messages include the cause."""
        self._names = AllowedNames(
            allowed_hosts, allowed_origins, addresses=lambda: node.addresses, is_private=is_private
        )
        self.connections = Connections(max_sessions, node.counters)
        self._lines = LinePool(node, max_sessions)
        self._fair_share = FairShare(max_sessions, node.counters)
        self._shares = Shares(node, inputs_per_minute / 60)
        own = OwnTokens(lambda: node.secret)
        self._guard = Guard(authenticate, own, Proxies(trusted_proxies))
        self._entrance = Entrance(node, self._guard, own, self._lines, self._shares, ice_servers or IceServers())
        self._pages = Pages(self._guard, own, self._names, is_development=is_development)
        self._handshakes = Addresses(10 + max_sessions / 2, 20 + max_sessions)
        self._returns = Addresses(RETURNS * (10 + max_sessions / 2), RETURNS * (20 + max_sessions))
        self._requests = Addresses(HTTP_PER_S, HTTP_BURST)
        self._dropping: set[asyncio.Task[None]] = set()
        self._metrics = metrics
        self._console = console
        self._clients: set[WebSocketClient] = set()

    @property
    def has_room(self) -> bool:
        """Whether a line is free."""
        return not self._lines.are_taken

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=LONGEST_FORM)
        app.add_routes(
            [
                web.get("/", self._index),
                web.get(CALLS, self._orchestrate),
                web.get(ALIVE, self._healthz),
                web.get("/readyz", self._readyz),
                web.post("/login", self._pages.login),
                web.static("/static", STATIC),
            ]
        )
        if self._metrics is not None:
            app.router.add_get("/metrics", self._metrics)
        if self._console is not None:
            app.router.add_get("/console", self._to_console)
        app.cleanup_ctx.append(self._watching)
        app.on_shutdown.append(self._send_all_away)
        return app

    def operators_app(self) -> web.Application:
        """The pages for operators alone, for an address of their own: no token is needed there."""
        app = web.Application(middlewares=[self._named])
        app.add_routes([web.get(ALIVE, self._healthz), web.get("/readyz", self._readyz)])
        if self._metrics is not None:
            app.router.add_get("/metrics", self._metrics)
        return app

    @web.middleware
    async def _named(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if refusal := self._names.refusal(request.headers):
            return web.Response(status=421, text=refusal)
        return await handler(request)

    async def _watching(self, _: web.Application) -> AsyncIterator[None]:
        async with self._lines, self._fair_share:
            yield

    async def _send_all_away(self, _: web.Application) -> None:
        """Close all clients before aiohttp waits for open connections: none would end by itself."""
        await asyncio.gather(*(client.send_away("the service is stopping") for client in list(self._clients)))

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse requests with a wrong Host, above the rate limit, or without the right; add the security headers."""
        try:
            async with asyncio.timeout(None if request.path == CALLS else ANSWER_S):
                response = await self._answer(request, handler)
        except TimeoutError:  # of the body of a request that did not come, say
            if request.path == CALLS:
                raise
            response = web.Response(status=408, text=f"the request was not complete within {ANSWER_S:g} s")
            response.force_close()
        except AccessRefused as refused:
            self._node.counters["access_refused"] += 1
            response = self._pages.refusal(request, refused)
        except NotReadyError as error:  # the key of resume tokens and cookies is not read yet
            response = AccessRefused(str(error), 503).response()
        if not response.prepared:
            response.headers.update(SECURITY_HEADERS)
        return response

    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if refusal := self._names.refusal(request.headers):
            response = web.Response(status=421, text=refusal)
            response.force_close()
            return response
        if request.path == CALLS:
            return await handler(request)
        if not await self._requests.may_ask(self._guard.address(request)):
            return self._too_many("requests")
        if request.path != ALIVE:
            await self._pages.check(request)
        return await handler(request)

    async def _index(self, request: web.Request) -> web.StreamResponse:
        page: web.StreamResponse = web.FileResponse(STATIC / "index.html")
        if self._console is not None:
            text = (STATIC / "index.html").read_text("utf-8").replace(' id="to-console" hidden', ' id="to-console"')
            page = web.Response(text=text, content_type="text/html")
        self._pages.give_cookie(request, page)
        return page

    async def _to_console(self, request: web.Request) -> web.Response:
        """Redirect to the console, at the session that the query names."""
        assert self._console is not None, "there is a route only then"
        try:
            url = await self._console()
        except OSError as error:
            return web.Response(status=503, text=f"the console cannot start: {safe_error(error)}; try `orch console`")
        session_id = request.query.get("session", "")
        raise web.HTTPFound(f"{url}sessions/{quote(session_id, safe='')}" if session_id else url)

    async def _healthz(self, _: web.Request) -> web.Response:
        """Report that the process is alive. /readyz reports whether it can take calls."""
        return web.json_response({"alive": True})

    async def _readyz(self, _: web.Request) -> web.Response:
        node = self._node
        ready = node.ready and await node.ping()
        body = {
            "ready": ready,
            "shards": len(node.shards),
            "sessions": len(node.sessions),
            "counters": dict(node.counters),
        }
        return web.json_response(body, status=200 if ready else 503)

    async def _orchestrate(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        if transport is None:  # the client has left; nobody gets this
            return web.Response()
        if _has_spoken_early(request):
            return web.Response(status=400, text="wait for the answer to the handshake before you send frames")
        admission = await self._entrance.check(request)
        if not await (self._returns if admission.comes_back else self._handshakes).may_ask(admission.address):
            return self._too_many("conversations")
        socket = web.WebSocketResponse(
            max_msg_size=MAX_MESSAGE_BYTES, heartbeat=20, timeout=CLOSE_S, protocols=(PROTOCOL,)
        )
        if not socket.can_prepare(request):
            return web.Response(status=426, headers={"Upgrade": "websocket"}, text="you may come in, by WebSocket")
        may_connect = self._names.may_connect(request)
        if may_connect and not admission.comes_back:
            admission = await self._entrance.reserve(admission)
        dropping: list[WebSocketClient] = []
        frames = FrameCount(transport, lambda: self._drop_flooder(dropping, transport))
        try:
            await socket.prepare(request)
        except ConnectionError:  # no error: the client left before the answer; nobody gets this
            return web.Response()
        frames.open()
        if not may_connect:
            await socket.close(code=CloseCode.POLICY_VIOLATION, message=b"this page may not connect: wrong Origin")
            return socket
        client = WebSocketClient(socket, transport.abort)
        dropping.append(client)
        live = await self._entrance.join(admission, client, frames)
        if live is None:
            return socket
        await self._converse(socket, live, client, transport)
        return socket

    async def _converse(
        self, socket: web.WebSocketResponse, live: LiveSession, client: WebSocketClient, transport: asyncio.Transport
    ) -> None:
        channel = ControlChannel(self._node, self._lines, self._fair_share, self._shares.of(live), live, client)
        call = Call(
            self._node,
            self._services,
            self._media,
            live,
            client,
            channel.admits,
            channel.spoke_aloud,
            tells_details=self._is_private,
        )
        self._clients.add(client)
        self.connections.converses(transport)
        try:
            await channel.listen(socket, call)
        finally:
            self._clients.discard(client)
            call.leave("the connection closed")
            if live.client is None:  # else another connection has taken its place
                self._lines.left(live)

    def _drop_flooder(self, clients: list[WebSocketClient], transport: asyncio.Transport) -> None:
        self._node.counters["clients_dropped"] += 1
        if not clients:
            transport.abort()
        for client in clients:
            dropping = asyncio.create_task(client.drop(CloseCode.POLICY_VIOLATION, TOO_MANY))
            self._dropping.add(dropping)
            dropping.add_done_callback(self._dropping.discard)

    def _too_many(self, what: str) -> web.Response:
        self._node.counters["requests_refused"] += 1
        words = f"this address asks for too many {what}: try again later"
        refusal = web.Response(status=429, headers={"Retry-After": "1"}, text=words)
        refusal.force_close()
        return refusal


def _has_spoken_early(request: web.Request) -> bool:
    """Whether bytes after the request have arrived (RFC 6455, 4.1): they could not be split into frames reliably.
    aiohttp keeps such bytes only in this private attribute until it reads frames.
    """
    return bool(request.protocol._message_tail)
