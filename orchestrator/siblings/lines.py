"""Messages between the supervisor of `orch serve --processes N` and its processes: a line of JSON each."""

import asyncio
import contextlib
import json
import socket
from typing import Any, cast

MOST_BYTES = 4 * 1024 * 1024
"""Longest message; the longest is a metrics page."""


class Lines:
    """One end of the connection; it ends when the other process has ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connection: socket.socket) -> "Lines":
        return cls(*await asyncio.open_connection(sock=connection, limit=MOST_BYTES))

    def say(self, **what: object) -> None:
        """Send a message. To a process that has ended, it is lost."""
        if not self._writer.is_closing():
            with contextlib.suppress(RuntimeError):  # uvloop says so of a connection that has just broken
                self._writer.write(json.dumps(what).encode() + b"\n")

    async def hear(self) -> dict[str, Any] | None:
        """The next message of the other process; None: it has ended."""
        try:
            line = await self._reader.readline()
        except ConnectionError:  # it was killed
            return None
        whole = line.endswith(b"\n")  # else it was killed within the message
        return cast("dict[str, Any]", json.loads(line)) if whole else None

    async def close(self) -> None:
        """Send the last messages, and close."""
        with contextlib.suppress(OSError, RuntimeError):  # the other process has ended
            await self._writer.drain()
        self._writer.close()
