"""The least voice service on bare aiortc, beside which bench/calls.py measures orch.

It decodes, hears by orch's VAD where speech ends, and answers each question with the same prepared speech: no
recogniser, no conversation, no log.

It speaks as much of docs/websocket.md as the callers of bench/calls.py need. Run: `python -m bench.bare_aiortc`
"""

import asyncio
import json
import time
from collections import deque
from typing import cast

import av
from aiohttp import WSMsgType, web
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from bench.least_server import serve
from cli.terminal import run as run_loop
from orchestrator.media.ice import choose_addresses
from orchestrator.media.opus import FRAME_MS, FRAME_SAMPLES, RATE_HZ, SILENT_FRAME, audio_frame
from orchestrator.media.resampling import SPEECH_RATE_HZ, ToOpusFrames, ToSpeechRate
from orchestrator.media.settings import MediaSettings
from orchestrator.media.speech_model import open_speech_model
from orchestrator.media.vad import Offset, VoiceActivity
from tests.media.speech import speak

FRAME_S = FRAME_MS / 1000
WORDS = "We are open every day from eight in the morning until six in the evening."
ANSWER = web.AppKey("answer", list[bytes])
SETTINGS = MediaSettings(ice_host_addresses=("127.0.0.1",))


class Voice(MediaStreamTrack):
    """What the caller hears: a frame every 20 ms, of the answer or of silence. aiortc encodes it."""

    kind = "audio"

    def __init__(self, answer: list[bytes]) -> None:
        super().__init__()
        self._answer = answer
        self._frames: deque[bytes] = deque()
        self._begun_s = time.monotonic()
        self._tick = 0

    def answers(self) -> None:
        self._frames = deque(self._answer)

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        await asyncio.sleep(self._begun_s + self._tick * FRAME_S - time.monotonic())
        frame = audio_frame(self._frames.popleft() if self._frames else SILENT_FRAME, RATE_HZ)
        frame.pts = self._tick * FRAME_SAMPLES
        self._tick += 1
        return frame


async def hear(track: MediaStreamTrack, voice: Voice) -> None:
    """Answer each time the caller has spoken."""
    activity, to_speech = VoiceActivity(SETTINGS, open_speech_model()), ToSpeechRate()
    while True:
        try:
            frame = cast("av.AudioFrame", await track.recv())
        except MediaStreamError:
            return
        if any(isinstance(found, Offset) for found in activity.feed(to_speech.feed(frame))):
            voice.answers()


async def orchestrate(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_json({"type": "session", "session_id": "bare", "resume_token": "none"})
    connection, voice = RTCPeerConnection(), Voice(request.app[ANSWER])
    hearing: list[asyncio.Task[None]] = []
    connection.on("track", lambda track: hearing.append(asyncio.ensure_future(hear(track, voice))))
    async for message in socket:
        if message.type is WSMsgType.TEXT and (said := json.loads(message.data))["type"] == "webrtc_offer":
            await connection.setRemoteDescription(RTCSessionDescription(said["sdp"], "offer"))
            connection.addTrack(voice)
            choose_addresses(connection, SETTINGS)
            await connection.setLocalDescription(await connection.createAnswer())
            await socket.send_json({"type": "webrtc_answer", "sdp": connection.localDescription.sdp})
    for task in hearing:
        task.cancel()
    await connection.close()
    return socket


async def main() -> None:
    app = web.Application()
    cutting = ToOpusFrames()
    app[ANSWER] = [*cutting.feed(speak(WORDS), SPEECH_RATE_HZ), *cutting.flush()]
    await serve(app, orchestrate)


if __name__ == "__main__":
    run_loop(main())
