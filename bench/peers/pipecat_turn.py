"""The turn in Pipecat: its pipeline, worker, context aggregators, turn strategies and OpenAI service, as they come.

The stubs are an STTService that proposes turns like Pipecat's service for Deepgram Flux, a TTSService, and an output
transport that takes each frame at once. The user's turn ends with the recogniser's word, without a further delay.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from importlib.metadata import version

from pipecat.frames.frames import (
    Frame,
    OutputAudioRawFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    StartFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.settings import STTSettings, TTSSettings
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
from pipecat.utils.time import time_now_iso8601
from pipecat.workers.runner import WorkerRunner

from bench.peers.worker import QUESTION, SAMPLE_RATE_HZ, TOKENS, Framework, serve


class Recogniser(STTService):
    def __init__(self) -> None:
        super().__init__(settings=STTSettings(model=None, language=None), ttfs_p99_latency=0.0)

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        yield None


class Voice(TTSService):
    def __init__(self, pipecat: "Pipecat") -> None:
        super().__init__(
            push_start_frame=True,
            push_stop_frames=True,
            sample_rate=SAMPLE_RATE_HZ,
            settings=TTSSettings(model=None, voice=None, language=None),
        )
        self.pipecat = pipecat

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        speech = await self.pipecat.synthesize(text)
        yield TTSAudioRawFrame(speech, SAMPLE_RATE_HZ, 1, context_id=context_id)


class SoundCard(BaseOutputTransport):
    def __init__(self, pipecat: "Pipecat") -> None:
        super().__init__(TransportParams(audio_out_enabled=True, audio_out_sample_rate=SAMPLE_RATE_HZ))
        self.pipecat = pipecat

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)
        self.pipecat.is_ready.set()

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        self.pipecat.mark("first audio")
        return True


class Pipecat(Framework):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.is_ready = asyncio.Event()
        self.recogniser = Recogniser()
        strategies = ExternalUserTurnStrategies()
        self.context = LLMContext()
        context = LLMContextAggregatorPair(
            self.context, user_params=LLMUserAggregatorParams(user_turn_strategies=strategies)
        )
        settings = OpenAILLMService.Settings(model="local", max_tokens=TOKENS, system_instruction="Be brief.")
        model = OpenAILLMService(base_url=url, api_key="key", settings=settings)
        steps = [self.recogniser, context.user(), model, Voice(self), SoundCard(self), context.assistant()]
        self.worker = PipelineWorker(Pipeline(steps), enable_rtvi=False, idle_timeout_secs=None)

        @context.assistant().event_handler("on_assistant_turn_stopped")
        async def on_assistant_turn_stopped(*_: object) -> None:
            self.idle.set()

    async def begin(self) -> None:
        self.context.set_messages([])
        await self.interrupt()

    async def interrupt(self) -> None:
        await self.recogniser.broadcast_frame(ProposedUserStartedSpeakingFrame)

    async def final(self) -> None:
        await self.recogniser.push_frame(TranscriptionFrame(QUESTION, "user", time_now_iso8601(), finalized=True))
        await self.recogniser.broadcast_frame(ProposedUserStoppedSpeakingFrame)


async def main(url: str, count: int) -> None:
    runner = WorkerRunner(handle_sigint=False)
    sessions = [Pipecat(url) for _ in range(count)]
    await runner.add_workers(*(one.worker for one in sessions))
    running = asyncio.create_task(runner.run())
    for one in sessions:
        await one.is_ready.wait()
    await serve(sessions, version("pipecat-ai"))
    for one in sessions:
        await one.worker.cancel()
    await running


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
