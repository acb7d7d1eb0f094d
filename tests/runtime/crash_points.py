"""A proxy in front of a real Redis that understands commands, counts them, and fails at one of them."""

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import hiredis

Kind = Literal["cut", "lost", "crash", "late-crash"]
"""What fails: the connection, before the command gets through or after it was carried out, its reply lost; or the
process, before or after.
"""


@dataclass(frozen=True)
class Fault:
    """What happens at which command: the first is number 0, whatever its connection."""

    kind: Kind
    at: int


class _Replies:
    """Counts replies in a stream of bytes."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._arrived = asyncio.Condition()
        self.count = 0

    async def feed(self, data: bytes) -> None:
        self._reader.feed(data)
        while self._reader.gets() is not False:
            self.count += 1
        async with self._arrived:
            self._arrived.notify_all()

    async def until(self, count: int) -> None:
        """Wait for that many."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.count >= count)


class FailingProxy:
    """`async with FailingProxy(server_socket, fault) as proxy:` then connect to `proxy.url`."""

    def __init__(self, server_socket: str, fault: Fault | None) -> None:
        self._server_socket = server_socket
        self._folder = tempfile.TemporaryDirectory(prefix="orch-fail-")
        self.url = f"unix://{Path(self._folder.name) / 'p.sock'}"
        self.commands: list[str] = []
        """The names of all commands so far."""
        self.failed = ""
        """The command at which it failed."""
        self.crashed = asyncio.Event()
        """The process in front of us is dead: nothing of it gets through any more."""
        self._fault = fault
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "FailingProxy":
        self._server = await asyncio.start_unix_server(self._serve, self.url.removeprefix("unix://"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._cut(self._writers)
        self._folder.cleanup()

    def _cut(self, writers: set[asyncio.StreamWriter]) -> None:
        for writer in list(writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.crashed.is_set():
            writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_unix_connection(self._server_socket)
        both, replies, losing = {writer, server_writer}, _Replies(), asyncio.Event()
        self._writers |= both
        requests = asyncio.create_task(self._requests(reader, server_writer, replies, losing))
        answers = asyncio.create_task(self._answers(server_reader, writer, replies, losing))
        try:
            await asyncio.wait([requests, answers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            requests.cancel()
            answers.cancel()
            self._cut(both)
            self._writers -= both

    async def _requests(
        self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, replies: _Replies, losing: asyncio.Event
    ) -> None:
        parser, sent = hiredis.Reader(), 0
        while data := await reader.read(1 << 20):
            parser.feed(data)
            for command in _all(parser):
                self.commands.append(_name(command))
                if self._fault is not None and self._fault.at == len(self.commands) - 1:
                    self.failed = _name(command)
                    await replies.until(sent)  # what came before it on this connection was carried out
                    if self._fault.kind in ("lost", "late-crash"):
                        losing.set()
                        to.write(hiredis.pack_command(tuple(command)))
                        await replies.until(sent + 1)
                    if self._fault.kind in ("crash", "late-crash"):
                        self.crashed.set()
                        self._cut(self._writers)
                    return
                to.write(hiredis.pack_command(tuple(command)))
                sent += 1

    async def _answers(
        self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, replies: _Replies, losing: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 20):
                if not losing.is_set():
                    to.write(data)
                await replies.feed(data)


def _all(parser: hiredis.Reader) -> Iterator[list[bytes]]:
    while (command := parser.gets()) is not False:
        yield command


def _name(command: list[bytes]) -> str:
    """Such as `XADD`; of a script its digest, which the story turns into a name."""
    words = [word.decode(errors="replace") for word in command[:2]]
    return " ".join(words) if words[0] in ("EVALSHA", "CLIENT", "SCRIPT") else words[0]
