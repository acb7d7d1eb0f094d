"""A local server with OpenAI's speech interface over real HTTP, written from its public reference."""

import asyncio
import io
import wave
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.adapters.sound import tone

RATE_HZ = 24_000


@dataclass
class OpenAIPeer:
    """What it was asked, and how it answers."""

    api_key: str = "sk-t0ken-of-ours"
    text: str = "when are you open"
    sends: str = "pcm"
    """pcm, wav, mp3, silence, half (the connection breaks), or hang."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client went away in the middle of an answer."""

    def app(self) -> web.Application:
        application = web.Application()
        application.add_routes(self.routes())
        return application

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/audio/speech", self.speech),
            web.post("/v1/audio/transcriptions", self.transcriptions),
        ]

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") == f"Bearer {self.api_key}":
            return None
        error = {"message": "Incorrect API key provided.", "type": "invalid_request_error", "code": "invalid_api_key"}
        return web.json_response({"error": error}, status=401)

    async def speech(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        asked = await request.json()
        self.asked.append(asked)
        sound = b"" if self.sends == "silence" else tone(60 * len(asked["input"]), RATE_HZ)
        kind = {"wav": "audio/wav", "mp3": "audio/mpeg"}.get(self.sends, "audio/pcm")
        if self.sends == "wav":
            file = io.BytesIO()
            with wave.open(file, "wb") as writer:
                writer.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
                writer.writeframes(sound)
            sound = file.getvalue()
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        try:
            if self.sends in ("half", "hang"):
                await response.write(sound[: RATE_HZ // 2])
            if self.sends == "hang":
                await asyncio.Event().wait()
            if self.sends == "half":
                assert request.transport is not None
                request.transport.abort()
                return response
            for at in range(0, len(sound), 3333):  # in odd pieces, as networks do
                await response.write(sound[at : at + 3333])
        except (ConnectionError, asyncio.CancelledError):
            self.left.set()
            raise
        return response

    async def transcriptions(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        form = await request.post()
        sound = form["file"]
        assert isinstance(sound, web.FileField)
        with wave.open(sound.file, "rb") as reader:
            about = (reader.getframerate(), reader.getnchannels(), reader.getsampwidth(), reader.getnframes())
        self.asked.append({**{name: str(value) for name, value in form.items() if name != "file"}, "sound": about})
        if self.sends == "hang":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.left.set()
                raise
        return web.json_response({"text": f" {self.text}\n"} if self.text else {"segments": []})
