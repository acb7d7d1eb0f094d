"""Local servers with the WebSocket interfaces of Deepgram and ElevenLabs, written from their public references."""

import asyncio
import base64
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from tests.adapters.sound import tone

MS_PER_CHARACTER = 60
SPEECH_RATE_HZ = 22_050


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class DeepgramPeer:
    """`GET /v1/listen`: hears two words of `text` a second, and the rest when it is told to finalize. Times count from
    the beginning of the stream; what is told after the sound was sent lies within it.
    """

    text: str = "when are you open"
    does: str = "fine"
    """fine; silent (no final after Finalize), dies (the connection breaks with the first sound), refuses (401)."""
    may_finalize: asyncio.Event = field(default_factory=_set)
    """Until it is set, a final waits."""
    opened: list[dict[str, str]] = field(default_factory=list)
    finalized_bytes: list[int] = field(default_factory=list)

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/listen", self.listen)]

    async def listen(self, request: web.Request) -> web.StreamResponse:
        self.opened.append({**request.query, "Authorization": request.headers.get("Authorization", "")})
        if self.does == "refuses":
            raise web.HTTPUnauthorized
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sent = heard_bytes = before_bytes = 0
        async for message in socket:
            words = self.text.split()
            if message.type is WSMsgType.BINARY:
                if self.does == "dies":
                    assert request.transport is not None
                    request.transport.abort()
                    break
                heard_bytes += len(message.data)
                if (known := min(len(words), heard_bytes // 16_000)) > sent:
                    sent = known
                    await socket.send_json(_result(words[:sent], before_bytes, heard_bytes, is_final=False))
            elif message.type is WSMsgType.TEXT and json.loads(message.data)["type"] == "Finalize":
                self.finalized_bytes.append(heard_bytes)
                if self.does == "fine":
                    await self.may_finalize.wait()
                    await socket.send_json(_result(words, before_bytes, heard_bytes, is_final=True))
                before_bytes += heard_bytes
                sent = heard_bytes = 0
            elif message.type is WSMsgType.TEXT and json.loads(message.data)["type"] == "CloseStream":
                break
        await socket.close()
        return socket


def _result(words: list[str], before_bytes: int, heard_bytes: int, *, is_final: bool) -> dict[str, Any]:
    """What is understood of the `heard_bytes` of sound that came after `before_bytes`."""
    begin_s, word_s = before_bytes / 32_000, min(0.5, heard_bytes / 32_000 / max(1, len(words)))
    timed = [
        {
            "word": word,
            "punctuated_word": word,
            "start": begin_s + at * word_s,
            "end": begin_s + (at + 1) * word_s,
            "confidence": 0.9,
        }
        for at, word in enumerate(words)
    ]
    return {
        "type": "Results",
        "channel_index": [0, 1],
        "start": begin_s,
        "duration": len(words) / 2,
        "is_final": is_final,
        "speech_final": is_final,
        "from_finalize": is_final,
        "channel": {"alternatives": [{"transcript": " ".join(words), "confidence": 0.9, "words": timed}]},
        "metadata": {"request_id": "r", "model_uuid": "m", "model_info": {"name": "n", "version": "1", "arch": "a"}},
    }


@dataclass
class ElevenLabsPeer:
    """`GET /v1/text-to-speech/VOICE/multi-stream-input`: a tone for each text, with the times of its characters."""

    does: str = "fine"
    """fine, dies (the connection breaks with the first text), slow (the rest of a text never comes)."""
    texts: list[str] = field(default_factory=list)
    api_keys: set[str] = field(default_factory=set)

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/text-to-speech/{voice}/multi-stream-input", self.speak)]

    async def speak(self, request: web.Request) -> web.StreamResponse:
        self.api_keys.add(request.headers.get("xi-api-key", ""))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        pending: dict[str, str] = {}
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            told = json.loads(message.data)
            context = told.get("context_id", "")
            pending[context] = pending.get(context, "") + told.get("text", "")
            if told.get("close_context") or told.get("flush"):
                text = pending.pop(context, "").strip()
                if text:
                    self.texts.append(text)
                    if self.does == "dies":
                        assert request.transport is not None
                        request.transport.abort()
                        break
                    await self._audio(socket, context, text)
            if told.get("close_context") and self.does != "slow":
                await socket.send_json({"contextId": context, "isFinal": True})
        return socket

    async def _audio(self, socket: web.WebSocketResponse, context: str, text: str) -> None:
        sound, step = tone(MS_PER_CHARACTER * len(text), SPEECH_RATE_HZ), 2 * SPEECH_RATE_HZ * 400 // 1000
        times = {
            "chars": list(text),
            "charStartTimesMs": [MS_PER_CHARACTER * at for at in range(len(text))],
            "charDurationsMs": [MS_PER_CHARACTER] * len(text),
        }
        for at in range(0, len(sound), step):
            told: dict[str, Any] = {"audio": base64.b64encode(sound[at : at + step]).decode(), "contextId": context}
            if at == 0:
                told |= {"alignment": times, "normalizedAlignment": times}
            await socket.send_json(told)
            await asyncio.sleep(0)
            if self.does == "slow":
                return
