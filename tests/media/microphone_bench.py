"""A microphone that tests feed with speech, beside a recogniser that remembers."""

import asyncio

import av

from orchestrator.media.echo import LoudnessGuard
from orchestrator.media.microphone import Microphone
from orchestrator.media.settings import MediaSettings
from orchestrator.media.speech_model import open_speech_model
from orchestrator.media.utterance import Utterances
from orchestrator.media.vad import VoiceActivity
from tests.media.speech import resample
from tests.media.stubs import RememberingSpeechToText

FRAME = 960
SILENCE_S = bytes(32_000)


class Bench:
    """A microphone that is fed faster than real time."""

    def __init__(self, settings: MediaSettings, stt: RememberingSpeechToText) -> None:
        self.settings = settings
        self.stt = stt
        self.events = []
        self.echo = LoudnessGuard(settings)
        self.pts = 0

    @classmethod
    async def set_up(cls, settings: MediaSettings = MediaSettings()) -> "Bench":  # noqa: B008
        bench = cls(settings, RememberingSpeechToText())
        activity = VoiceActivity(settings, open_speech_model())
        utterances = await Utterances.open(settings, bench.stt, bench.events.append)
        bench.microphone = Microphone(settings, activity, bench.echo, utterances, bench.events.append)
        return bench

    def hear(self, pcm_16k: bytes, *, lose: range = range(0)) -> None:
        """Feed speech as decoded 20 ms frames, 48 kHz stereo; frames whose number is in `lose` are lost."""
        pcm = resample(pcm_16k, 16_000, 48_000)
        pcm += bytes(-len(pcm) % (2 * FRAME))
        for number, start in enumerate(range(0, len(pcm), 2 * FRAME)):
            if number not in lose:
                self.microphone.hear(stereo_frame(pcm[start : start + 2 * FRAME], self.pts))
            self.pts += FRAME

    @property
    def recognizer(self):
        return self.stt.recognizer

    def types(self):
        return [event.type for event in self.events]


def stereo_frame(mono: bytes, pts: int) -> av.AudioFrame:
    frame = av.AudioFrame(format="s16", layout="stereo", samples=FRAME)
    frame.planes[0].update(b"".join(mono[i : i + 2] * 2 for i in range(0, len(mono), 2)))
    frame.sample_rate = 48_000
    frame.pts = pts
    return frame


async def until(true) -> None:
    async with asyncio.timeout(3):
        while not true():  # noqa: ASYNC110  (what is awaited has no event: it is a list that grows)
            await asyncio.sleep(0.01)
