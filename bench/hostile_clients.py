"""26 hostile behaviours of one client. `python -m bench.hostile_clients NAME URL SECONDS ADDRESS` runs one of them;
ADDRESS is the client's local address.
"""

import asyncio
import base64
import json
import os
import random
import re
import socket as sockets
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

from aiortc.rtp import RtpPacket

from tests.media.peer import CallPeer

TEXT, PING, PONG = 1, 9, 10
GONE = (OSError, asyncio.IncompleteReadError, TimeoutError)
LONG_TEXT = json.dumps({"type": "text", "text": "x " * 999}).encode()
GOODBYE = b'{"type":"goodbye"}'


def frame(op: int, payload: bytes = b"", *, is_final: bool = True) -> bytes:
    if len(payload) < 126:
        length = bytes([0x80 | len(payload)])
    elif len(payload) < 65_536:
        length = b"\xfe" + struct.pack("!H", len(payload))
    else:
        length = b"\xff" + struct.pack("!Q", len(payload))
    return bytes([op | 0x80 * is_final]) + length + bytes(4) + payload


class Socket:
    """A minimal WebSocket client that discards every message except the awaited one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    async def message(self, kind: str) -> dict[str, str]:
        """The next message of a kind."""
        async with asyncio.timeout(10):
            while True:
                first, length = await self.reader.readexactly(2)
                if length == 126:
                    (length,) = struct.unpack("!H", await self.reader.readexactly(2))
                elif length == 127:
                    (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
                payload = await self.reader.readexactly(length)
                if first & 15 == TEXT and (said := json.loads(payload))["type"] == kind:
                    return dict(said)
                if first & 15 == 8:
                    raise ConnectionResetError("closed")

    async def drain(self) -> None:
        with suppress(*GONE):
            while await self.reader.read(65_536):
                pass

    def abort(self) -> None:
        self.writer.transport.abort()


class Hostile:
    """One hostile client; `acted` counts its actions."""

    def __init__(self, url: str, seconds: float, address: str) -> None:
        self.acted = 0
        self._at = urlsplit(url)
        self._until_s = time.monotonic() + seconds
        self._address = address
        self._tasks: list[asyncio.Task[None]] = []

    def goes_on(self) -> bool:
        self.acted += 1
        return time.monotonic() < self._until_s

    async def tcp(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(5):
            return await asyncio.open_connection(self._at.hostname, self._at.port, local_addr=(self._address, 0))

    async def open(self, query: str = "") -> Socket:
        reader, writer = await self.tcp()
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /orchestrate{query} HTTP/1.1\r\nHost: {self._at.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket"
            f"\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head:
            writer.transport.abort()
            raise ConnectionRefusedError
        return Socket(reader, writer)

    def read(self, socket: Socket) -> None:
        self._tasks.append(asyncio.create_task(socket.drain()))

    async def again_and_again(self, once: Callable[[], Awaitable[None]], pause_s: float = 0.0) -> None:
        """Repeat `once` as fast as possible, also after errors; `pause_s` is the pause between two calls."""
        while self.goes_on():
            with suppress(*GONE):
                await once()
            await asyncio.sleep(pause_s)

    async def flood(self, data: bytes, per_s: float = 0.0, first: bytes = b"") -> None:
        """Send `data` over one connection, `per_s` times a second (0: as fast as possible). Reconnects when closed."""
        while self.goes_on():
            with suppress(*GONE):
                socket = await self.open()
                self.read(socket)
                await socket.send(first)
                while self.goes_on() and not socket.reader.at_eof():
                    await socket.send(data)
                    await asyncio.sleep(1 / per_s if per_s else 0)
            await asyncio.sleep(0.01)

    async def at_once(self, count: int, one: Callable[[], Awaitable[None]]) -> None:
        await asyncio.gather(*(one() for _ in range(count)))

    async def get(self, path: str) -> None:
        reader, writer = await self.tcp()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._at.netloc}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()

    async def open_and(self, *frames: bytes, wait_for: str = "session") -> None:
        socket = await self.open()
        try:
            await socket.message("session")
            await socket.send(*frames)
            if wait_for != "session":
                await socket.message(wait_for)
        finally:
            socket.abort()

    async def hold(self, count: int, first: bytes = b"", drip: bytes = b"") -> None:
        """Keep `count` plain TCP connections open; reopen each when it is closed."""

        async def one() -> None:
            reader, writer = await self.tcp()
            writer.write(first)
            while self.goes_on() and not reader.at_eof():
                writer.write(drip)
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await reader.read(1)

        await self.at_once(count, lambda: self.again_and_again(one, 0.05))

    async def idle(self) -> None:
        socket = await self.open()
        while self.goes_on() and not socket.reader.at_eof():
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await socket.reader.read(4096)

    async def come_back(self) -> None:
        socket = await self.open()
        ids = await socket.message("session")
        await socket.send(frame(TEXT, b'{"type":"text","text":"hello"}'))
        query = f"?session_id={ids['session_id']}&resume_token={ids['resume_token']}"

        async def once() -> None:
            (await self.open(query)).abort()

        await self.again_and_again(once)

    async def no_token(self) -> None:
        (await self.open("?session_id=auto_session_1&resume_token=guess")).abort()

    async def never_reads(self) -> None:
        socket = await self.open()
        while self.goes_on():
            await socket.send(frame(TEXT, LONG_TEXT))
            await asyncio.sleep(1 / 29)

    # --- calls ---

    async def offers(self, more: str = "") -> None:
        peer = CallPeer((self._address,))
        offer = frame(TEXT, json.dumps({"type": "webrtc_offer", "sdp": await peer.offer() + more}).encode())
        await self.flood(offer, 29)
        await peer.close()

    async def candidates(self) -> None:
        hosts = (f"a=candidate:{n} 1 udp 1 127.1.{n // 250}.{n % 250 + 1} 9 typ host\r\n" for n in range(1_100))
        await self.offers("".join(hosts)[:55_000].rpartition("\r\n")[0] + "\r\n")

    async def call(self) -> tuple[Socket, CallPeer, str]:
        socket, peer = await self.open(), CallPeer((self._address,))
        await socket.send(frame(TEXT, json.dumps({"type": "webrtc_offer", "sdp": await peer.offer()}).encode()))
        answer = (await socket.message("webrtc_answer"))["sdp"]
        return socket, peer, answer

    async def datagrams(self) -> None:
        """Send datagrams to the port of an SDP answer, from an address that is no candidate."""
        socket, _, answer = await self.call()
        self.read(socket)
        port = int(re.findall(r"m=audio (\d+)", answer)[0])
        with sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as out:
            out.setblocking(False)
            while self.goes_on():
                with suppress(BlockingIOError):
                    for _ in range(4):
                        out.sendto(b"\xff" * 60_000, ("127.0.0.1", port))
                await asyncio.sleep(0.0025)

    async def audio(self, times: float, sources: int = 1) -> None:
        """Send noise in a call at `times` real time, from `sources` SSRCs."""
        socket, peer, answer = await self.call()
        self.read(socket)
        await peer.answered(answer)
        transport = peer.connection.getSenders()[0].transport
        begun_s, sent = time.monotonic(), 0
        while self.goes_on() and not socket.reader.at_eof():
            if sent * 0.02 > (time.monotonic() - begun_s) * times:
                await asyncio.sleep(0.002)
                continue
            packet = RtpPacket(
                111, sequence_number=sent % 65_536, timestamp=960 * sent % 2**32, ssrc=sent % sources + 1
            )
            packet.payload = bytes([0x78]) + random.randbytes(159)
            await transport._send_rtp(packet.serialize())
            sent += 1
        await peer.close()

    async def sources_then_gone(self) -> None:
        socket, peer, answer = await self.call()
        await peer.answered(answer)
        transport = peer.connection.getSenders()[0].transport
        for number in range(200):
            packet = RtpPacket(111, sequence_number=number, timestamp=960 * number, ssrc=1_000 + number)
            packet.payload = bytes(20)
            await transport._send_rtp(packet.serialize())
        await asyncio.sleep(1.5)
        socket.abort()
        await peer.close()


BEHAVIOURS: dict[str, Callable[[Hostile], Awaitable[None]]] = {
    "types 29 times a second": lambda it: it.flood(frame(TEXT, LONG_TEXT), 29),
    "types 29 times a second, 9 times": lambda it: it.at_once(9, lambda: it.flood(frame(TEXT, LONG_TEXT), 29)),
    "interrupts nothing, 9 times": lambda it: it.at_once(9, lambda: it.flood(frame(TEXT, b'{"type":"barge_in"}'), 29)),
    "opens and says goodbye": lambda it: it.again_and_again(lambda: it.open_and(frame(TEXT, GOODBYE))),
    "opens and goes": lambda it: it.again_and_again(it.open_and),
    "opens and goes, 40 times": lambda it: it.at_once(40, lambda: it.again_and_again(it.open_and)),
    "speaks and goes": lambda it: it.again_and_again(
        lambda: it.open_and(frame(TEXT, b'{"type":"text","text":"hello"}'), wait_for="reply")
    ),
    "is silent, 20 times": lambda it: it.at_once(20, lambda: it.again_and_again(it.idle, 0.1)),
    "pings": lambda it: it.flood(frame(PING, b"p" * 125) * 100),
    "pongs": lambda it: it.flood(frame(PONG) * 100),
    "empty fragments": lambda it: it.flood(frame(0, is_final=False) * 1_000, first=frame(TEXT, b"{", is_final=False)),
    "no JSON": lambda it: it.flood(frame(TEXT, b"{") * 10),
    "comes back all the time": lambda it: it.again_and_again(it.come_back),
    "guesses tokens": lambda it: it.again_and_again(it.no_token),
    "never reads": lambda it: it.again_and_again(it.never_reads),
    "/metrics, 8 times": lambda it: it.at_once(8, lambda: it.again_and_again(lambda: it.get("/metrics"))),
    "/readyz, 32 times": lambda it: it.at_once(32, lambda: it.again_and_again(lambda: it.get("/readyz"))),
    "pages, 16 times": lambda it: it.at_once(16, lambda: it.again_and_again(lambda: it.get("/static/console.js"))),
    "600 idle connections": lambda it: it.hold(600),
    "200 requests that drip": lambda it: it.hold(200, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"a"),
    "29 offers a second": lambda it: it.offers(),
    "1,100 candidates": lambda it: it.candidates(),
    "datagrams of a stranger": lambda it: it.datagrams(),
    "audio, 10 times real time": lambda it: it.audio(10),
    "audio, 30 times real time, 64 sources": lambda it: it.audio(30, 64),
    "200 sources, then gone": lambda it: it.again_and_again(it.sources_then_gone),
}


async def main(name: str, url: str, seconds: float, address: str) -> None:
    it = Hostile(url, seconds, address)
    with suppress(TimeoutError, *GONE):
        async with asyncio.timeout(seconds):
            await BEHAVIOURS[name](it)
    print(it.acted)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]))
