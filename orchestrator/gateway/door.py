"""Listens for connections and limits their number: at the limit, a new one replaces the oldest without a conversation.

aiohttp closes a connection that is idle, or whose request does not arrive, after IDLE_S.
"""

import asyncio
import logging
import resource
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from errno import EADDRINUSE
from socket import gaierror, socket
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
    """The open connections, and which of them have no conversation: pages, probes, and those that say nothing."""

    def __init__(self, lines: int, counters: Counters) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(SPARE + PER_LINE * lines, max(files - OWN_FILES, SPARE // 4))
        self._counters = counters
        self._others: dict[asyncio.Transport, None] = {}
        """Open connections without a conversation, oldest first."""
        self._open: set[asyncio.Transport] = set()
        self._say_at_s = 0.0
        self._turned_away = 0

    def enters(self, transport: asyncio.Transport) -> bool:
        """Add a new connection; at the limit, abort the oldest without a conversation. Returns False to refuse the new
        one.
        """
        if len(self._open) >= self._most:
            self._forget_closed()
        if len(self._open) >= self._most:
            self._say()
            self._counters["connections_refused"] += 1
            if not self._others:
                return False
            oldest = next(iter(self._others))
            del self._others[oldest]
            self._open.discard(oldest)
            oldest.abort()
        self._open.add(transport)
        self._others[transport] = None
        return True

    def converses(self, transport: asyncio.Transport) -> None:
        """Note that a conversation has begun: this connection stays. A request alone is no reason to: others could fill
        all places with requests that are refused, or never end.
        """
        self._others.pop(transport, None)

    @property
    def count(self) -> int:
        """How many are open now."""
        self._forget_closed()
        return len(self._open)

    def _forget_closed(self) -> None:
        self._open = {one for one in self._open if not one.is_closing()}
        self._others = {one: None for one in self._others if one in self._open}

    def _say(self) -> None:
        self._turned_away += 1
        if time.monotonic() >= self._say_at_s:
            self._say_at_s = time.monotonic() + SAY_EVERY_S
            logger.warning(
                "%d connections are open, as many as may be: the oldest without a conversation is closed for a new one "
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


Protocol = Callable[[], asyncio.Protocol]


class Door(ABC):
    """A listening socket."""

    @abstractmethod
    async def open(self, protocol: Protocol, tls: ssl.SSLContext | None) -> tuple[str, int]:
        """Begin to accept; returns host and port. Raises OSError."""

    @abstractmethod
    def close(self) -> None:
        """Accept no more."""


class OwnDoor(Door):
    """The socket of this process alone."""

    def __init__(self, host: str, port: int) -> None:
        self._at = host, port
        self._server: asyncio.Server | None = None

    async def open(self, protocol: Protocol, tls: ssl.SSLContext | None) -> tuple[str, int]:
        loop, handshake_s = asyncio.get_running_loop(), HANDSHAKE_S if tls else None
        self._server = await loop.create_server(protocol, *self._at, ssl=tls, ssl_handshake_timeout=handshake_s)
        where = self._server.sockets[0].getsockname()
        return where[0], where[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


class SharedDoor(Door):
    """A socket on which several processes listen. This one accepts a caller only if `may_accept` says so just then."""

    def __init__(self, listener: socket, may_accept: Callable[[], bool]) -> None:
        self.entering: set[asyncio.Task[None]] = set()
        """Connections that were accepted, in the handshake of TLS."""
        self._listener = listener
        self._may_accept = may_accept
        self._is_open = False
        self._no_files_until_s = 0.0
        self._enter: Callable[[socket], Coroutine[None, None, None]] | None = None

    @property
    def is_out_of_files(self) -> bool:
        """Whether a connection could not be accepted within the last second."""
        return time.monotonic() < self._no_files_until_s

    async def open(self, protocol: Protocol, tls: ssl.SSLContext | None) -> tuple[str, int]:
        """See Door. Accepts nobody before the first `look`."""
        loop, handshake_s = asyncio.get_running_loop(), HANDSHAKE_S if tls else None

        async def enter(connection: socket) -> None:
            try:
                await loop.connect_accepted_socket(protocol, connection, ssl=tls, ssl_handshake_timeout=handshake_s)
            except OSError as error:  # of TLS, too
                connection.close()
                logger.debug("a connection ended in its handshake: %s", error)

        self._enter = enter
        where = self._listener.getsockname()
        return where[0], where[1]

    def close(self) -> None:
        self._enter = None
        self.look()

    def look(self) -> bool:
        """Accept from now on, or leave it to the other processes; returns which."""
        loop, is_open = asyncio.get_running_loop(), self._enter is not None and self._may_accept()
        if is_open and not self._is_open:
            loop.add_reader(self._listener, self._accept)
        elif self._is_open and not is_open:
            loop.remove_reader(self._listener)
        self._is_open = is_open
        return is_open

    def _accept(self) -> None:
        if not self.look():
            return
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another process was faster, or the caller left
            return
        except OSError as error:
            logger.warning("a connection cannot be accepted: %s", error)
            self._no_files_until_s = time.monotonic() + 1
            self.look()
            return
        connection.setblocking(False)
        assert self._enter is not None, "it is open"
        entering = asyncio.get_running_loop().create_task(self._enter(connection))
        self.entering.add(entering)
        entering.add_done_callback(self.entering.discard)


@asynccontextmanager
async def listening(
    app: web.Application, connections: Connections, doors: Sequence[Door], tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, int]]:
    """Serve an application at all doors; yields the host and port of the first. Raises OSError."""
    runner = web.AppRunner(app, shutdown_timeout=5.0, keepalive_timeout=IDLE_S, lingering_time=LINGER_S)
    await runner.setup()
    try:
        server = runner.server
        assert server is not None, "it was set up"
        try:
            where = [await door.open(lambda: _Entry(connections, server), tls) for door in doors]
            yield where[0]
        finally:
            for door in doors:
                door.close()
    finally:
        await runner.cleanup()


def cannot_listen(host: str, port: int, error: OSError) -> OSError:
    """The error of a host and port at which nothing can listen, with what to do."""
    if isinstance(error, gaierror):
        return OSError(error.errno, f"the host {host!r} is no address of this machine: {error.strerror}")
    reason = error.strerror or str(error)
    if error.errno == EADDRINUSE:
        reason = "it is in use; is another orch running? Choose another one with --port, or --port 0 for any free one"
    return OSError(error.errno, f"cannot listen on port {port} of {host or 'this machine'}: {reason}")
