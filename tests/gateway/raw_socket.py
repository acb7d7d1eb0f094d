"""A WebSocket client that sends any frames it likes, for tests of what a server does with them."""

import asyncio
import base64
import os
import struct
from typing import Any, cast
from urllib.parse import urlsplit

from tests.runtime.support import PATIENCE_S

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def frame(op: int, payload: bytes = b"", *, is_final: bool = True) -> bytes:
    """One masked frame, with a mask that changes nothing."""
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
    return bytes([op | 0x80 * is_final]) + length + bytes(4) + payload


class RawSocket:
    """One connection; nothing is answered by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, url: str, *, early: bytes = b"", token: str = "") -> "RawSocket":
        """`early` goes out with the request."""
        at = urlsplit(url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /orchestrate HTTP/1.1\r\nHost: {at.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"{f'Authorization: Bearer {token}' if token else 'X-No: token'}\r\n\r\n".encode()
            + early
        )
        return cls(reader, writer)

    async def opened(self) -> int:
        """The status of the answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1])

    async def close_code(self) -> int | None:
        """Everything that is said until the connection is closed; the code of the close frame, if there was one."""
        code = None
        async with asyncio.timeout(PATIENCE_S):
            try:
                while True:
                    op, payload = await self._frame()
                    if op == CLOSE:
                        code = struct.unpack("!H", payload[:2])[0]
                        self.abort()
            except (asyncio.IncompleteReadError, ConnectionError):
                return code

    async def _frame(self) -> tuple[int, bytes]:
        first, second = await self.reader.readexactly(2)
        length = second & 127
        if length == 126:
            (length,) = struct.unpack("!H", await self.reader.readexactly(2))
        return first & 15, await self.reader.readexactly(length)

    def abort(self) -> None:
        cast("Any", self.writer.transport).abort()
