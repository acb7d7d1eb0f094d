"""The gateway's HTTP side: the WebSocket /orchestrate and whom it refuses, the console page, health."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web

from orchestrator.gateway.call import Call
from orchestrator.gateway.client import WebSocketClient
from orchestrator.gateway.messages import MAX_MESSAGE_BYTES, CloseCode, SessionReady
from orchestrator.gateway.rate import RateLimit
from orchestrator.media.settings import MediaSettings
from orchestrator.runtime.effects import Services
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import DELAYED, Node, NotReadyError

logger = logging.getLogger(__name__)

CLOSE_S = 2.0
"""How long a client has to answer when the server closes the connection."""
STATIC = Path(__file__).parent / "static"
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; media-src 'self' blob:; frame-ancestors 'none'; "
        "connect-src 'self' ws: wss:"  # a conversation may move to a node that was started after the page was loaded
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Gateway:
    """Serves one node over HTTP."""

    def __init__(
        self,
        node: Node,
        services: Services,
        *,
        media: MediaSettings,
        allowed_origins: frozenset[str] = frozenset(),
        max_sessions: int = 20,
        metrics: Callable[[web.Request], Awaitable[web.Response]] | None = None,
    ) -> None:
        self._node = node
        self._services = services
        self._media = media
        self._allowed_origins = allowed_origins
        self._max_sessions = max_sessions
        self._metrics = metrics
        self._clients: set[WebSocketClient] = set()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_secure])
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/orchestrate", self._orchestrate),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.static("/static", STATIC),
            ]
        )
        if self._metrics is not None:
            app.router.add_get("/metrics", self._metrics)
        app.on_shutdown.append(self._send_all_away)
        return app

    async def _send_all_away(self, _: web.Application) -> None:
        """Before aiohttp waits for open connections to end: none would by itself."""
        await asyncio.gather(*(client.send_away("the service is stopping") for client in list(self._clients)))

    async def _index(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(STATIC / "index.html")

    async def _healthz(self, _: web.Request) -> web.Response:
        """The process is alive; whether it can take calls is /readyz."""
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
        socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE_BYTES, heartbeat=20, timeout=CLOSE_S)
        try:
            await socket.prepare(request)
        except ConnectionError:  # it is no error that a client is gone before it is answered; nobody gets this
            return web.Response()
        if not self._origin_allowed(request):
            await socket.close(code=CloseCode.POLICY_VIOLATION, message=b"this page may not connect: wrong Origin")
            return socket
        transport = request.transport
        client = WebSocketClient(socket, transport.abort if isinstance(transport, asyncio.Transport) else _nothing)
        live = await self._join(request, client)
        if live is None:
            return socket
        call = Call(self._node, self._services, self._media, live, client)
        self._clients.add(client)
        try:
            await self._listen(socket, call, client)
        finally:
            self._clients.discard(client)
            await call.leave("the connection closed")
        return socket

    async def _join(self, request: web.Request, client: WebSocketClient) -> LiveSession | None:
        """The session that a connection is for: a new one, or the one that it names and holds the token of."""
        session_id = request.query.get("session_id", "")
        if session_id and self._node.is_full:
            await client.send_away(DELAYED)
            return None
        if session_id:
            return await self._come_back(client, session_id, request.query.get("resume_token", ""))
        if len(self._node.sessions) >= self._max_sessions:
            await client.drop(CloseCode.TRY_AGAIN_LATER, "all lines are busy; try again later")
            return None
        try:
            live = self._node.open_session(client)
        except NotReadyError as error:
            await client.drop(CloseCode.TRY_AGAIN_LATER, str(error))
            return None
        client.tell(SessionReady(session_id=live.session_id, resume_token=self._node.resume_token(live.session_id)))
        return live

    async def _come_back(self, client: WebSocketClient, session_id: str, token: str) -> LiveSession | None:
        """The session, if it is here or comes here now; else the client is sent to its owner."""
        known, address = self._node.may_resume(session_id, token), ""
        if known and not self._node.owns(session_id):
            address = await self._node.find(session_id)
        live = self._node.session(session_id)
        if known and live is None and self._node.owns(session_id):
            live = await self._node.promised(session_id)
        if known and live is not None:
            return self._rejoin(live, client, token)
        if known and not self._node.owns(session_id):
            await client.send_away("the conversation is in another process, or on its way there", address)
        else:
            await client.drop(CloseCode.UNKNOWN_SESSION, "no such session here, or the resume_token is wrong")
        return None

    def _rejoin(self, live: LiveSession, client: WebSocketClient, token: str) -> LiveSession:
        """The client has come back. A connection that it still has, or somebody else, is replaced."""
        old = live.client
        client.tell(SessionReady(session_id=live.session_id, resume_token=token))
        self._node.connect_client(live, client)
        client.tell_phase(live.state)
        if isinstance(old, WebSocketClient):
            why = old.drop(CloseCode.POLICY_VIOLATION, "replaced by another connection to this conversation")
            live.watch(asyncio.create_task(why, name=f"{live.session_id}:replaced"))
        return live

    async def _listen(self, socket: web.WebSocketResponse, call: Call, client: WebSocketClient) -> None:
        limit = RateLimit()
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                await client.drop(CloseCode.POLICY_VIOLATION, "only text messages are understood")
            elif not limit.allows():
                await client.drop(CloseCode.POLICY_VIOLATION, "too many messages")
            elif not await call.hear(message.data) and not limit.allows_bad():
                await client.drop(CloseCode.POLICY_VIOLATION, "too many bad messages")

    def _origin_allowed(self, request: web.Request) -> bool:
        """Browsers name the page's origin: ours, another node's, or one that was configured. Other programs: none."""
        origin = request.headers.get("Origin")
        if origin is None or origin in self._allowed_origins or _host(origin) == request.host:
            return True
        return _host(origin) in map(_host, self._node.addresses)  # it came by a page of that node, and moved here


def _host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # not a URL at all
        return ""


def _nothing() -> None:
    """There is no transport: the connection is gone already."""


@web.middleware
async def _secure(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    response = await handler(request)
    if not response.prepared:
        response.headers.update(SECURITY_HEADERS)
    return response
