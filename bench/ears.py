"""Measures the demo's ears through the product's own ports: word error rate, and time from end of speech to final.

Run: `uv run python -m bench.ears` for 61 sentences in the natural voice (20 open ones, 41 of the demo's phrases), or
`-m bench.ears FOLDER...` for the recordings of people in bench/ears.tsv (path, words, set, origin, separated by tabs).
They are found in the FOLDERs by the end of their path: check out the named repositories and unpack the named packages
there. Missing ones are named, and left out. It takes as long as the sound, plus two seconds for each.

Each sound goes in real time through Microphone, VAD, Utterances and the recogniser's process, with 0.6 s of silence
before and 1 s after it, and is finished 500 ms after SPEECH_STOPPED, as the policy does. "final": processor time of the
recogniser's process from the end of speech (the VAD falls silent) to the final; wall-clock time from FinishUtterance.
Clips in pieces: a pause in the middle makes several finals, which are joined.
"""

import asyncio
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.spoken import median, percentile
from bench.vad import read_clip
from events.envelope import Input
from events.inputs import SpeechStarted, SpeechStopped, SttFinal
from orchestrator.media.echo import LoudnessGuard
from orchestrator.media.microphone import Microphone
from orchestrator.media.opus import FRAME_MS, FRAME_SAMPLES, RATE_HZ, audio_frame
from orchestrator.media.resampling import SPEECH_RATE_HZ, ToOpusFrames
from orchestrator.media.settings import MediaSettings
from orchestrator.media.speech_model import open_speech_model
from orchestrator.media.utterance import Utterances
from orchestrator.media.vad import VoiceActivity
from orchestrator.reference.content import load_content
from orchestrator.reference.moonshine_recognition import MoonshineRecognition
from tests.media.speech import speak

RECORDINGS = Path(__file__).with_suffix(".tsv")
BEFORE_S, AFTER_S = 0.6, 1.5
ENDPOINT_MS = 500
NUMBERS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
"""
ONES, TENS = NUMBERS.split()[:20], NUMBERS.split()[20:]
PHRASES = 41
OPEN_SENTENCES = (
    "the train to the coast leaves at half past seven",
    "she put the letter back into the drawer",
    "could you tell my brother that I will be late",
    "it rained all night and the garden is under water",
    "we need three more chairs for the meeting",
    "nobody knew the name of the old song",
    "my telephone number has changed since last year",
    "the doctor said it would heal within two weeks",
    "he bought a second hand bicycle for his daughter",
    "what is the difference between these two contracts",
    "the museum is closed on public holidays",
    "please send the invoice to our new address",
    "they painted the kitchen yellow and the door green",
    "I have never been so tired in my life",
    "there is a strange noise coming from the engine",
    "the children are playing behind the church",
    "which of these roads goes to the airport",
    "her mother speaks four languages and teaches music",
    "the price went up by twenty percent in march",
    "turn the lights off before you leave the office",
)
SAME = {"mr": "mister", "dr": "doctor", "okay": "ok", "p.m": "p m", "a.m": "a m", "cannot": "can not"}


def number(value: int) -> str:
    """A number below a hundred spelt out, another as a year or digit by digit."""
    if value < 20:
        return ONES[value]
    if value < 100:
        return f"{TENS[value // 10 - 2]} {ONES[value % 10] if value % 10 else ''}"
    if 1_100 <= value < 2_100 and value % 100:
        return f"{number(value // 100)} {number(value % 100)}"
    return " ".join(ONES[int(digit)] for digit in str(value))


def words(text: str) -> list[str]:
    """The words as they are compared: lower case, numbers spelt out, no punctuation."""
    text = text.lower().replace("’", "'")
    for written, spoken in SAME.items():
        text = re.sub(rf"\b{re.escape(written)}\b\.?", spoken, text)
    text = re.sub(r"(\d)[:.](\d\d)\b", r"\1 \2", text)
    text = re.sub(r"(\d+)(?:st|nd|rd|th)\b", r"\1", text)
    text = re.sub(r"\d+", lambda found: f" {number(int(found[0]))} ", text)
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text)


def errors(truth: Sequence[str], heard: Sequence[str]) -> int:
    """Substituted, missing and surplus words (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for at, word in enumerate(truth, 1):
        diagonal, row[0] = row[0], at
        for other, found in enumerate(heard, 1):
            diagonal, row[other] = row[other], min(row[other] + 1, row[other - 1] + 1, diagonal + (word != found))
    return row[-1]


@dataclass
class Ear:
    """The microphone of a call with the policy's wait, and what it took."""

    recognition: MoonshineRecognition
    finals: list[str] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)

    async def hear(self, frames: Sequence[bytes]) -> str:
        """The words of a recording, spoken in real time."""
        loop, settings = asyncio.get_running_loop(), MediaSettings()
        self.finals.clear()
        self._owed, self._done = 0, asyncio.Event()
        self._waits: asyncio.TimerHandle | None = None
        utterances = await Utterances.open(settings, self.recognition, self._note)
        activity = VoiceActivity(settings, open_speech_model())
        self._microphone = Microphone(settings, activity, LoudnessGuard(settings), utterances, self._note)
        began_s = loop.time()
        for number, pcm in enumerate(frames, start=1):
            await asyncio.sleep(max(0.0, began_s + number * FRAME_MS / 1000 - loop.time()))
            frame = audio_frame(pcm, RATE_HZ)
            frame.pts = (number - 1) * FRAME_SAMPLES
            was_voiced = activity.is_voiced
            before_s = self._cpu_s()
            self._microphone.hear(frame)
            if was_voiced and not activity.is_voiced:
                self._ended_cpu_s = before_s
        async with asyncio.timeout(10):
            while self._owed:
                self._done.clear()
                await self._done.wait()
        await self._microphone.close()
        return " ".join(self.finals)

    def _note(self, event: Input) -> None:
        loop = asyncio.get_running_loop()
        match event:
            case SpeechStarted():
                if self._waits:
                    self._waits.cancel()
                    self._owed -= 1
                self._waits = None
            case SpeechStopped():
                self._owed += 1
                self._waits = loop.call_later(ENDPOINT_MS / 1000, self._finish)
            case SttFinal():
                self._owed -= 1
                self.finals.append(event.text)
                self.cpu_ms.append(1000 * (self._cpu_s() - self._ended_cpu_s))
                self.wall_ms.append(1000 * (loop.time() - self._finished_s))
                self._done.set()

    def _finish(self) -> None:
        self._waits = None
        self._finished_s = asyncio.get_running_loop().time()
        self._microphone.finish_utterance()

    def _cpu_s(self) -> float:
        times = psutil.Process(self.recognition.process_id).cpu_times()
        return float(times.user + times.system)


@dataclass(frozen=True, slots=True)
class Sound:
    """16 kHz mono PCM, and the words that it says."""

    name: str
    pcm: bytes
    text: str
    group: str


def recordings(folders: Sequence[str]) -> Iterator[Sound]:
    files = [path for folder in folders for path in Path(folder).rglob("*.*")]
    for line in RECORDINGS.read_text().splitlines():
        name, text, group, origin = line.split("\t")
        if path := next((file for file in files if file.as_posix().endswith(f"/{name}")), None):
            yield Sound(path.name, read_clip(path), text, group)
        else:
            print(f"missing: {name} of {origin}", file=sys.stderr)


def sentences() -> Iterator[Sound]:
    phrases = load_content().phrases()
    for at in range(PHRASES):
        text = phrases[at * len(phrases) // PHRASES]
        yield Sound(text, speak(text), text, "the demo's phrases, natural voice")
    for text in OPEN_SENTENCES:
        yield Sound(text, speak(text), text, "open sentences, natural voice")


async def main(sounds: Iterable[Sound]) -> None:
    wrong, total = defaultdict[str, int](int), defaultdict[str, int](int)
    async with MoonshineRecognition() as recognition:
        ear = Ear(recognition)
        for sound in sounds:
            silence = [bytes(int(seconds * SPEECH_RATE_HZ) * 2) for seconds in (BEFORE_S, AFTER_S)]
            opus = ToOpusFrames()
            frames = opus.feed(sound.pcm.join(silence), SPEECH_RATE_HZ) + opus.flush()
            truth, heard = words(sound.text), words(await ear.hear(frames))
            count = errors(truth, heard)
            wrong[sound.group] += count
            total[sound.group] += len(truth)
            if count:
                print(f"{sound.name}: {' '.join(truth)} → {' '.join(heard)}", flush=True)
    for group, count in total.items():
        print(f"{group}: {100 * wrong[group] / count:.1f} % of {count} words wrong")
    for name, values in (("processor", ear.cpu_ms), ("wall clock after the finish", ear.wall_ms)):
        print(f"final, {name}: p50 {median(values):.0f} ms, p95 {percentile(values, 95):.0f} ms, of {len(values)}")


if __name__ == "__main__":
    asyncio.run(main(recordings(sys.argv[1:]) if sys.argv[1:] else sentences()))
