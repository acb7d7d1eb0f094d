"""Listens for connections and limits their number: at the limit, a new connection replaces the oldest silent one.

A connection is silent until it has sent a whole request. aiohttp closes a connection that is idle, or whose request
does not arrive, after IDLE_S.
"""

import asyncio
import logging
import resource
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from aiohttp import web

from orchestrator.runtime.counters import Counters

logger = logging.getLogger(__name__)

IDLE_S = 10.0
HANDSHAKE_S = 10.0
"""How long a client may take for the handshake of TLS."""
LINGER_S = 1.0
"""How long aiohttp discards the rest of an unread request before it closes the connection."""
SPARE = 256
"""Connections that belong to no conversation: pages, probes, refused callers."""
PER_LINE = 4
"""Connections per line: a caller, and callers who reconnect (see lines.py)."""
OWN_FILES = 256
"""Share of the process's open-file limit kept for Redis, media and logs."""
SAY_EVERY_S = 60.0


class Connections:
    """The open connections, and which of them have not yet sent a request."""

    def __init__(self, lines: int, counters: Counters) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(SPARE + PER_LINE * lines, max(files - OWN_FILES, SPARE // 4))
        self._counters = counters
        self._silent: dict[asyncio.Transport, None] = {}
        """Open connections without a request, oldest first."""
        self._open: set[asyncio.Transport] = set()
        self._say_at_s = 0.0
        self._turned_away = 0

    def enters(self, transport: asyncio.Transport) -> bool:
        """Add a new connection; at the limit, abort the oldest silent one. Returns False to refuse the new one."""
        if len(self._open) >= self._most:
            self._forget_closed()
        if len(self._open) >= self._most:
            self._say()
            self._counters["connections_refused"] += 1
            if not self._silent:
                return False
            oldest = next(iter(self._silent))
            del self._silent[oldest]
            self._open.discard(oldest)
            oldest.abort()
        self._open.add(transport)
        self._silent[transport] = None
        return True

    def asks(self, transport: asyncio.BaseTransport | None) -> None:
        """Note that a whole request has arrived."""
        self._silent.pop(cast("asyncio.Transport", transport), None)

    def _forget_closed(self) -> None:
        self._open = {one for one in self._open if not one.is_closing()}
        self._silent = {one: None for one in self._silent if one in self._open}

    def _say(self) -> None:
        self._turned_away += 1
        if time.monotonic() >= self._say_at_s:
            self._say_at_s = time.monotonic() + SAY_EVERY_S
            logger.warning(
                "%d connections are open, as many as may be: the oldest that has asked nothing is closed for a new one "
                "(%d until now)",
                self._most,
                self._turned_away,
            )


class _Entry(asyncio.Protocol):
    """A connection that was just accepted; hands over to aiohttp unless the limit is reached."""

    def __init__(self, connections: Connections, server: web.Server) -> None:
        self._connections = connections
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        if not self._connections.enters(transport):
            transport.abort()
            return
        protocol = self._server()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


@asynccontextmanager
async def listening(
    app: web.Application, connections: Connections, host: str, port: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, int]]:
    """Serve an application; yields the host and port it listens at. Raises OSError."""
    runner = web.AppRunner(app, shutdown_timeout=5.0, keepalive_timeout=IDLE_S, lingering_time=LINGER_S)
    await runner.setup()
    try:
        server, loop = runner.server, asyncio.get_running_loop()
        assert server is not None, "it was set up"
        handshake_s = HANDSHAKE_S if tls else None
        listener = await loop.create_server(
            lambda: _Entry(connections, server), host, port, ssl=tls, ssl_handshake_timeout=handshake_s
        )
        try:
            where = listener.sockets[0].getsockname()
            yield where[0], where[1]
        finally:
            listener.close()
    finally:
        await runner.cleanup()
