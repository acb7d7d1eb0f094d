"""The turn in LiveKit Agents: its AgentSession, sentence tokenizer and OpenAI plugin, as they come, without a room.

The stubs are an STT whose stream gives the events of a turn, a TTS that synthesises text by text (the session adapts
it), and an AudioOutput that has played all it got at once. The user's turn ends with the recogniser's word: turn
detection is `stt`, the delays of endpointing are 0.
"""

import asyncio
import sys
from importlib.metadata import version
from typing import Any

from livekit import rtc
from livekit.agents import Agent, AgentSession, llm, stt, tts
from livekit.agents.voice import io
from livekit.plugins import openai

from bench.peers.worker import QUESTION, SAMPLE_RATE_HZ, TOKENS, Framework, serve


class Recognition(stt.RecognizeStream):
    def say(self, kind: stt.SpeechEventType, text: str = "") -> None:
        alternatives = [stt.SpeechData(language="en", text=text)] if text else []
        self._event_ch.send_nowait(stt.SpeechEvent(type=kind, alternatives=alternatives))

    async def _run(self) -> None:
        async for _ in self._input_ch:
            pass


class Recogniser(stt.STT):
    def __init__(self) -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=True, interim_results=True))
        self.opened: asyncio.Queue[Recognition] = asyncio.Queue()

    async def _recognize_impl(self, *_: object, **__: object) -> stt.SpeechEvent:
        raise NotImplementedError

    def stream(self, *, conn_options: Any, **_: object) -> Recognition:
        self.opened.put_nowait(recognition := Recognition(stt=self, conn_options=conn_options))
        return recognition


class Synthesis(tts.ChunkedStream):
    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        output_emitter.initialize(request_id="1", sample_rate=SAMPLE_RATE_HZ, num_channels=1, mime_type="audio/pcm")
        output_emitter.push(await self._tts.livekit.synthesize(self.input_text))
        output_emitter.flush()


class Voice(tts.TTS):
    def __init__(self, livekit: "LiveKit") -> None:
        super().__init__(capabilities=tts.TTSCapabilities(streaming=False), sample_rate=SAMPLE_RATE_HZ, num_channels=1)
        self.livekit = livekit

    def synthesize(self, text: str, *, conn_options: Any) -> Synthesis:
        return Synthesis(tts=self, input_text=text, conn_options=conn_options)


class SoundCard(io.AudioOutput):
    def __init__(self, livekit: "LiveKit") -> None:
        super().__init__(label="stub", capabilities=io.AudioOutputCapabilities(pause=False))
        self.livekit = livekit
        self.played_s = 0.0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        self.livekit.mark("first audio")
        await super().capture_frame(frame)
        self.played_s += frame.duration

    def clear_buffer(self) -> None:
        self.flush(is_interrupted=True)

    def flush(self, is_interrupted: bool = False) -> None:
        super().flush()
        if self.played_s:
            self.on_playback_finished(playback_position=self.played_s, interrupted=is_interrupted)
        self.played_s = 0.0


class LiveKit(Framework):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.recogniser, self.agent = Recogniser(), Agent(instructions="Be brief.")
        self.session: AgentSession[Any] = AgentSession(
            stt=self.recogniser,
            vad=None,
            llm=openai.LLM(model="local", base_url=url, api_key="key", max_completion_tokens=TOKENS),
            tts=Voice(self),
            turn_handling={
                "turn_detection": "stt",
                "endpointing": {"min_delay": 0.0, "max_delay": 0.0},
                "interruption": {"resume_false_interruption": False},
            },
        )
        self.session.output.audio = SoundCard(self)
        self.session.on("agent_state_changed", lambda event: event.new_state == "listening" and self.idle.set())

    async def begin(self) -> None:
        await self.agent.update_chat_ctx(llm.ChatContext.empty())
        self.recognition.say(stt.SpeechEventType.START_OF_SPEECH)

    async def final(self) -> None:
        self.recognition.say(stt.SpeechEventType.FINAL_TRANSCRIPT, QUESTION)
        self.recognition.say(stt.SpeechEventType.END_OF_SPEECH)

    async def interrupt(self) -> None:
        await self.session.interrupt()


async def main(url: str, count: int) -> None:
    sessions = [LiveKit(url) for _ in range(count)]
    for one in sessions:
        await one.session.start(one.agent, record=False)
        one.recognition = await one.recogniser.opened.get()
    await serve(sessions, version("livekit-agents"))
    for one in sessions:
        await one.session.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
