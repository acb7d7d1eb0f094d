"""The least voice agent in Pipecat, beside which bench/calls.py measures orch: WebRTC transport, VAD and one answer.

As bench/bare_aiortc.py it answers each question with the same prepared speech: no recogniser, no model, no log. It
speaks as much of docs/websocket.md as the callers of bench/calls.py need. Run: `python -m … SPEECH`, a file of PCM with
16 bits and SAMPLE_RATE_HZ.
"""

import asyncio
import json
import sys
from pathlib import Path

import aioice.ice
from aiohttp import WSMsgType, web
from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import Frame, TTSAudioRawFrame, VADUserStoppedSpeakingFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from pipecat.workers.runner import WorkerRunner

from bench.least_server import serve

SAMPLE_RATE_HZ = 24_000
"""Of the answer: Pipecat's default for output."""
ANSWER = web.AppKey("answer", bytes)


class Answers(FrameProcessor):
    """Answers each time the caller has spoken."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self._answer = answer

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, VADUserStoppedSpeakingFrame) and direction is FrameDirection.DOWNSTREAM:
            await self.push_frame(TTSAudioRawFrame(self._answer, SAMPLE_RATE_HZ, 1))


async def talk(connection: SmallWebRTCConnection, answer: bytes) -> None:
    """One call, until it is cancelled."""
    transport = SmallWebRTCTransport(connection, TransportParams(audio_in_enabled=True, audio_out_enabled=True))
    voice = VADProcessor(vad_analyzer=SileroVADAnalyzer())
    steps = [transport.input(), voice, Answers(answer), transport.output()]
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(PipelineWorker(Pipeline(steps), enable_rtvi=False, idle_timeout_secs=None))
    await runner.run()


async def orchestrate(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_json({"type": "session", "session_id": "pipecat", "resume_token": "none"})
    talks: list[asyncio.Task[None]] = []
    async for message in socket:
        if message.type is WSMsgType.TEXT and (said := json.loads(message.data))["type"] == "webrtc_offer":
            connection = SmallWebRTCConnection()
            await connection.initialize(said["sdp"], "offer")
            talks.append(asyncio.create_task(talk(connection, request.app[ANSWER])))
            answer = connection.get_answer()
            assert answer is not None
            await socket.send_json({"type": "webrtc_answer", "sdp": answer["sdp"]})
    for task in talks:
        task.cancel()
    await asyncio.gather(*talks, return_exceptions=True)
    return socket


async def main(speech: bytes) -> None:
    logger.remove()
    aioice.ice.get_host_addresses = lambda *_, **__: ["127.0.0.1"]
    app = web.Application()
    app[ANSWER] = speech
    await serve(app, orchestrate)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).read_bytes()))
