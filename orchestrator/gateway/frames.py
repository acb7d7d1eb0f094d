"""Limits the rate of WebSocket frames on a connection before aiohttp reads them, pings, pongs and fragments included.

aiohttp answers pings and joins fragments by itself, so a count of messages would miss most of a flood.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from orchestrator.token_bucket import TokenBucket

FRAMES_PER_S = 30
"""Far above the needs of a conversation, far below a load that other callers would notice."""
BURST = 60
_PONG = 0xA
_LENGTH_BYTES = {126: 2, 127: 8}


class FrameCount(asyncio.Protocol):
    """Stands between a transport and the protocol that reads it."""

    def __init__(self, transport: asyncio.Transport, refuse: Callable[[], None]) -> None:
        """`refuse` is called once, when the limit is exceeded; reading stops then."""
        self._transport = transport
        self._inner = cast("asyncio.Protocol", transport.get_protocol())
        self._refuse = refuse
        self._bucket = TokenBucket(FRAMES_PER_S, BURST)
        self._is_open = False
        self._is_over = False
        self._header = bytearray()
        self._payload_left = 0
        self._on_pong: Callable[[], None] | None = None
        transport.set_protocol(self)

    def open(self) -> None:
        """Start counting frames: the handshake is answered."""
        self._is_open = True

    def when_answered(self, then: Callable[[], None]) -> None:
        """Call `then` at the next pong: the client has received all messages before the ping that it answers."""
        self._on_pong = then

    def data_received(self, data: bytes) -> None:
        if (
            not self._is_open
        ):  # RFC 6455, 4.1: clients wait for the answer; earlier bytes could not be split into frames
            self._transport.abort()
        elif not self._is_over and self._fits(data):
            self._inner.data_received(data)
        elif not self._is_over:
            self._is_over = True
            self._transport.pause_reading()
            self._refuse()

    def _fits(self, data: bytes) -> bool:
        """Whether all frames whose header ends in these bytes are within the limit."""
        at = 0
        while at < len(data):
            if self._payload_left:
                step = min(self._payload_left, len(data) - at)
                self._payload_left -= step
                at += step
                continue
            self._header.append(data[at])
            at += 1
            if self._is_header_complete():
                if not self._bucket.take():
                    return False
                if self._header[0] & 0x0F == _PONG:
                    self._answered()
                self._header.clear()
        return True

    def _answered(self) -> None:
        then, self._on_pong = self._on_pong, None
        if then is not None:
            then()

    def _is_header_complete(self) -> bool:
        header = self._header
        if len(header) < 2:
            return False
        length, is_masked = header[1] & 127, header[1] >> 7
        extended = _LENGTH_BYTES.get(length, 0)
        if len(header) < 2 + extended + 4 * is_masked:
            return False
        self._payload_left = int.from_bytes(header[2 : 2 + extended]) if extended else length
        return True

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
