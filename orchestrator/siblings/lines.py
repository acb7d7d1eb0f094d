"""Messages between the supervisor of `orch serve --processes N` and its processes: a line of JSON each."""

import asyncio
import contextlib
import json
import logging
import socket
from typing import Any, cast

logger = logging.getLogger(__name__)

MOST_BYTES = 4 * 1024 * 1024
"""Longest message; the longest is a metrics page."""


class JsonLinesConnection:
    """One end of the connection; it ends when the other process has ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connection: socket.socket) -> "JsonLinesConnection":
        return cls(*await asyncio.open_connection(sock=connection, limit=MOST_BYTES))

    def say(self, **what: object) -> None:
        """Send a message. To a process that has ended, it is lost."""
        if not self._writer.is_closing():
            with contextlib.suppress(RuntimeError):  # uvloop says so of a connection that has just broken
                self._writer.write(json.dumps(what).encode() + b"\n")

    async def hear(self) -> dict[str, Any] | None:
        """The next message of the other process that can be read; None: it has ended."""
        while True:
            try:
                line = await self._reader.readline()
                if not line.endswith(b"\n"):  # it was killed within the message
                    return None
                return cast("dict[str, Any]", json.loads(line))
            except ConnectionError:  # it was killed
                return None
            except (ValueError, RecursionError) as error:  # the rest of a message that is too long is no JSON, either
                logger.warning("a message between the processes is dropped: %s", str(error)[:200])

    async def close(self) -> None:
        """Send the last messages, and close."""
        with contextlib.suppress(OSError, RuntimeError):  # the other process has ended
            await self._writer.drain()
        self._writer.close()
