"""A Unix-socket proxy in front of a real Redis: it loses replies, goes dead without closing, is slow, or refuses."""

import asyncio
import contextlib
import tempfile
from pathlib import Path


class LossyProxy:
    """`async with LossyProxy(server_socket) as proxy:` then connect to `proxy.url`.

    After `lose_reply(needle)`, the next request that contains it is forwarded, its reply is awaited and thrown away,
    and the connection dies. After `hold(needle)`, the connection of the next such request stays open and passes nothing
    any more, from this request on. `count(needle)` only counts. `cut()` kills all connections, `refuse` makes new ones
    die. `slow_s` delays every reply.
    """

    def __init__(self, server_socket: str) -> None:
        self._server_socket = server_socket
        self._folder = tempfile.TemporaryDirectory(prefix="orch-proxy-")
        self.url = f"unix://{Path(self._folder.name) / 'p.sock'}"
        self.lost = 0
        self.requests = 0
        """How many chunks of requests held the needle since it was set."""
        self.refuse = False
        self.refused = 0
        self.held = 0
        self.slow_s = 0.0
        self._needle = b""
        self._writers: set[asyncio.StreamWriter] = set()

    def lose_reply(self, needle: bytes) -> None:
        self._needle, self._armed, self._holds, self.requests = needle, True, False, 0

    def hold(self, needle: bytes) -> None:
        self._needle, self._armed, self._holds, self.requests = needle, True, True, 0

    def count(self, needle: bytes) -> None:
        """Count the requests that hold it, and lose nothing."""
        self._needle, self._armed, self.requests = needle, False, 0

    async def __aenter__(self) -> "LossyProxy":
        self._armed = False
        self._server = await asyncio.start_unix_server(self._serve, self.url.removeprefix("unix://"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        self._folder.cleanup()

    def cut(self) -> None:
        """Kill all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            self.refused += 1
            writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_unix_connection(self._server_socket)
        losing = asyncio.Event()
        self._writers |= {writer, server_writer}
        try:
            with contextlib.suppress(OSError):
                await asyncio.gather(
                    self._requests(reader, server_writer, losing), self._replies(server_reader, writer, losing)
                )
        finally:
            for one in (writer, server_writer):
                one.transport.abort()
                self._writers.discard(one)

    async def _requests(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        while data := await reader.read(1 << 20):
            if self._needle and self._needle in data:
                self.requests += 1
                if self._armed:
                    self._armed = False
                    if self._holds:
                        self.held += 1
                        while await reader.read(1 << 20):  # until the client closes the connection
                            pass
                        break
                    losing.set()
            to.write(data)
            await to.drain()
        to.close()

    async def _replies(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        while data := await reader.read(1 << 20):
            if losing.is_set():
                self.lost += 1
                to.transport.abort()
                return
            if self.slow_s:
                await asyncio.sleep(self.slow_s)
            to.write(data)
            await to.drain()
        to.close()
