"""`orch serve` as a process of its own, and callers who speak to it over WebSocket and WebRTC."""

import asyncio
import json
import os
import re
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import aiohttp

from orchestrator.gateway.access.development import AUDIENCE, FILE, ISSUER
from orchestrator.gateway.access.keys import read_jwks
from orchestrator.gateway.access.tokens import sign
from orchestrator.grant import Scope
from tests.door import joining
from tests.media.peer import CallPeer

ROOT = Path(__file__).parents[2]
SUBJECT = "canary-anna"
READY = re.compile(r"open (https?://\S+)")


class Service:
    """Starts the service with its data in `folder`, on a free port or on `port`, maybe with an agent.

    `lines` is its golden log.
    """

    def __init__(self, folder: Path, *, agent: str = "", port: int = 0, processes: int = 1, **settings: str) -> None:
        self.command = ["cli", "serve", "--port", str(port), "--processes", str(processes), *([agent] if agent else [])]
        """The module that runs, and its arguments."""
        self.python: str | Path = sys.executable
        self.environment = os.environ | {
            "ORCH_DATA_DIR": str(folder),
            "ORCH_AUTH": "keys",
            "ORCH_ICE_HOST_ADDRESSES": "127.0.0.1",
            "PYTHONUNBUFFERED": "1",
            **settings,
        }
        self.url = ""
        """Where callers reach it: as it says, unless a test puts something in front."""
        self.shown: list[str] = []
        """The tokens that callers showed, and got to come back with."""
        self.lines: list[str] = []
        self.words: list[str] = []
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            *(self.python, "-m", *self.command),
            cwd=ROOT,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def look(line: str) -> None:
            if (found := READY.search(line)) and not ready.done():
                ready.set_result(found[1])

        assert self.process.stdout
        assert self.process.stderr
        self._readers = [
            asyncio.create_task(_read(self.process.stdout, self.lines, lambda _: None)),
            asyncio.create_task(_read(self.process.stderr, self.words, look)),
        ]
        ended = asyncio.create_task(self.process.wait())
        await asyncio.wait([ready, ended], timeout=30, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await self.__aexit__()
            raise AssertionError("the service did not start:\n" + "\n".join(self.words))
        self.url = ready.result()
        ended.cancel()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), 15)
        except TimeoutError:
            self.process.kill()  # the test fails, but nothing of it stays behind
            raise
        finally:
            await asyncio.gather(*self._readers)

    def token(self, *may: Scope) -> str:
        """A new token that allows this, or to talk, of the key in the data directory or of ORCH_AUTH_KEYS."""
        if self.environment["ORCH_AUTH"] == "none":
            return ""
        own, settings = Path(self.environment["ORCH_DATA_DIR"]) / FILE, self.environment
        (key,) = read_jwks(Path(settings.get("ORCH_AUTH_KEYS", own)).read_text(), has_secrets=True).values()
        issuer = settings.get("ORCH_AUTH_ISSUER", ISSUER)
        self.shown.append(
            sign(key, issuer=issuer, audience=AUDIENCE, subject=SUBJECT, grant={"may": may or ("text", "voice")})
        )
        return self.shown[-1]

    async def orch(self, *arguments: str) -> tuple[int, str, str]:
        """Run an `orch` command beside the service: exit code, standard output, standard error."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", *arguments),
            cwd=ROOT,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
        return process.returncode or 0, out.decode(), err.decode()


async def _read(stream: asyncio.StreamReader, into: list[str], look: Callable[[str], None]) -> None:
    async for raw in stream:
        line = raw.decode(errors="replace").rstrip("\n")
        into.append(line)
        look(line)


class Caller:
    """A browser's part of a conversation: the WebSocket, a microphone, and ears."""

    def __init__(
        self,
        service: Service,
        *,
        voice: bool = True,
        trusted: ssl.SSLContext | None = None,
        peers: Callable[[], CallPeer] = CallPeer,
    ) -> None:
        """`trusted`: the certificate of the service; `peers` makes the media of each call."""
        self._url = service.url
        self._service = service
        self.shown: list[str] = getattr(service, "shown", [])
        self._voice = voice
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted or True))
        self._peers = peers
        self.peer = peers()
        self.session_id = ""
        self.messages: list[tuple[float, dict[str, Any]]] = []
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        shown = joining({}, self._service.token() if isinstance(self._service, Service) else "")
        self._socket = await self._http.ws_connect(f"{self._url}/orchestrate", **shown)
        self._reader = asyncio.create_task(self._read())
        self.session = await self.hears("session")
        self.session_id = self.session["session_id"]
        if self._voice:
            await self.call(self.peer)
        return self

    async def call(self, peer: CallPeer) -> None:
        """Offer a call, which takes the place of the one before. Returns when it is connected."""
        self.peer = peer
        await self.send(type="webrtc_offer", sdp=await peer.offer())
        await peer.answered((await self.hears("webrtc_answer"))["sdp"])

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        await self.peer.close()
        await self._socket.close()
        await self._http.close()

    async def send(self, **message: str) -> None:
        await self._socket.send_json(message)

    async def hears(self, kind: str, within_s: float = 20, after_s: float = 0, **fields: object) -> dict[str, Any]:
        """The first message of that kind with these fields that nobody asked for yet, waiting for it if need be.
        `after_s`: only messages that came since (time.monotonic).
        """
        async with asyncio.timeout(within_s):
            while True:
                for at_s, message in self.messages:
                    is_new = at_s >= after_s and not message.get("_taken")
                    if message["type"] == kind and fields.items() <= message.items() and is_new:
                        message["_taken"] = True
                        message["_at_s"] = at_s
                        return message
                self._news.clear()
                await self._news.wait()

    @property
    def golden(self) -> list[str]:
        """The lines of this session's golden log so far, without the session id."""
        return [m["line"].partition("] ")[2] for _, m in self.messages if m["type"] == "log"]

    async def _read(self) -> None:
        async for raw in self._socket:
            if raw.type is aiohttp.WSMsgType.TEXT:
                message = json.loads(raw.data)
                self.messages.append((time.monotonic(), message))
                self._news.set()
                self._heard(message)

    def _heard(self, message: dict[str, Any]) -> None:
        if message["type"] == "session":
            self.shown.append(message["resume_token"])
        if message["type"] == "playback_mark":
            self._confirming = asyncio.create_task(self._confirm(message))

    async def _confirm(self, mark: dict[str, Any]) -> None:
        """What the talk page does: say so when the marked packet has come."""
        await self.peer.reaches(mark["rtp"])
        await self.send(type="playback_done", playback_id=mark["playback_id"])
