"""Records `bench/speech.jsonl`: plays real audio through the project's microphone, VAD and recogniser, in real time.

Run: `uv run python bench/record_speech.py [FOLDER]` (13 minutes; repeats utterances that a busy machine fed too late).
It overwrites the corpus. No two runs are equal: espeak-ng varies, and so does the processing time. FOLDER is
`test/data` of a checkout of https://github.com/cmusphinx/pocketsphinx (BSD licence), which has a few human recordings;
without it the corpus has none. Only the reports of VAD and recogniser are kept, no audio.

- Synthetic voices, most of the corpus: espeak-ng through the reference text-to-speech, ten callers of different voice,
  speed and level. They speak the phrases of the reference content and, each twice, sentences with hesitations: silence
  between clauses (`|` below). Half of the utterances have background noise. The recogniser runs in its default mode,
  `domain`, although some words here are outside the domain. Each caller has a recogniser of their own, as in a call.
- Human voices: commands, playing cards, a book read aloud. All are outside the domain, so the recogniser's mode is
  `general`. They hardly pause, so clips of one speaker are also joined with silence between.
- Feeding continues after SPEECH_STOPPED and finishes 1.5 s after the true end. So the final at an earlier stop is not
  known; users of the corpus take the last partial before that stop instead.
- The true end and the pauses come from the energy of the clean sound: windows of 10 ms above 3 % of the loudest
  (human: 8 %, because of breath and room noise; their ends are uncertain by some 50 ms).
"""

import asyncio
import random
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Literal

import av

from bench.spoken import CORPUS, FINAL, PARTIAL, STARTED, STOPPED, Report, Spoken, write
from events.envelope import Input
from events.inputs import SpeechStarted, SpeechStopped, SttFinal, SttPartial
from orchestrator.media.echo import LoudnessGuard
from orchestrator.media.microphone import Microphone
from orchestrator.media.opus import FRAME_MS, FRAME_SAMPLES, RATE_HZ, audio_frame
from orchestrator.media.resampling import SPEECH_RATE_HZ, ToOpusFrames, frame_pcm
from orchestrator.media.settings import MediaSettings
from orchestrator.media.speech_model import open_speech_model
from orchestrator.media.utterance import Utterances
from orchestrator.media.vad import VoiceActivity, loudness_rms
from orchestrator.reference.content import load_content
from orchestrator.reference.speech import EspeakSpeech
from orchestrator.reference.sphinx import SphinxRecognition
from orchestrator.services.ports import Request

CALLERS = (
    *(("en-us", 165), ("en", 150), ("en-us+f3", 180), ("en+f2", 165), ("en-gb-scotland", 155)),
    *(("en-us+m3", 200), ("en-029", 150), ("en-gb-x-rp+f4", 190), ("en-gb-x-gbcwmd", 170), ("en-us-nyc+m7", 140)),
)
SHORT = (
    *("yes", "no", "hello", "stop", "help", "thanks", "goodbye", "pardon", "yes please", "no thank you"),
    *("two people", "seven thirty", "at a quarter past eight", "four two one five five nine"),
)
HESITATING = """
    can you tell me | when you are open
    i would like to | change my appointment
    i would like to book a table | for two
    do you have | anything vegan
    i want to change | my booking
    are you open on sunday | or on monday
    what time do you | close today
    can i book a table | for four | tonight
    how much is | a coffee
    i want to cancel | my order
    um | what is on the menu
    yes | i would like to make a booking
    no | i want to come tomorrow
    hello | when are you open
    thanks | and where are you
    wait | can i change my order
    is there parking | or a bus
    i need to move my booking | to another day
    i want a table | for tonight
    hi there | can i speak to a person
    my number is | four two one | five five nine
    my name is | peter miller
    do you have cake | and what does a tea cost
    at half past seven | or at eight
    i would like | um | a table for two
    good morning | i want to cancel my booking
    can you repeat that | please
    what do you have to eat | and to drink
    how do i get there | by train
    okay | what are your opening hours
    are you open | today
    i want to come later | not tomorrow
    where can i leave my car | or my bike
    i would like to change | my order
    the day after tomorrow | at nine thirty
    can i reserve a table | for saturday evening
    so | how late are you open
    what did you say | about the price
    could you please | cancel my table
    i want to talk | to someone
"""
PLAIN = 40
PAUSES_MS = (200, 500, 300, 800, 400, 1_200, 350, 600, 250, 1_000, 450, 700)
NOISES_RMS = (0, 30, 0, 60, 0, 100, 0, 150)
PEAKS = (3_000, 6_000, 12_000, 20_000)

_AUSTEN = "librivox/sense_and_sensibility_01_austen_64kb-0{}.wav"
_CARDS = {
    "cards/001.wav": "ten of clubs",
    "cards/002.wav": "four queen of clubs",
    "cards/003.wav": "seven of clubs",
    "cards/004.wav": "five five",
    "cards/005.wav": "eight of spades four of clubs seven of hearts",
}
_READ = {
    _AUSTEN.format(870): "and mister john dashwood had then leisure to consider how much there might be prudently in "
    "his power to do for them",
    _AUSTEN.format(880): "he was not an ill disposed young man",
    _AUSTEN.format(890): "unless to be rather cold hearted and rather selfish is to be ill disposed",
    _AUSTEN.format(
        920
    ): "had he married a more amiable woman he might have been made still more respectable than he was",
    _AUSTEN.format(930): "he might even have been made amiable himself",
}
_OTHER = {"goforward.raw": "go forward ten meters", "something.raw": "go somewhere and do something"}
_HUMAN_NOISE_RMS = 40
"""Noise level around the human clips, about their own: a microphone never gives digital silence."""

Mode = Literal["domain", "general"]

_LEAD_MS = (300, 700)
_TAIL_MS = 1_500
_WINDOW_MS = 10
_SHORTEST_PAUSE_MS = 150
_SYNTHETIC_SHARE, _HUMAN_SHARE = 0.03, 0.08
_LATEST_MS = 40
"""Largest accepted delay of feeding audio; later reports have useless times."""
_ATTEMPTS = 30


@dataclass(frozen=True, slots=True)
class Script:
    """One utterance to speak: clauses, the silence between them, noise and level."""

    clauses: tuple[str, ...]
    sources: tuple[str, ...]
    """Recording of each clause; empty for synthetic speech."""
    pauses_ms: tuple[int, ...]
    noise_rms: int
    peak: int


def synthetic_calls() -> Iterator[tuple[str, int, list[Script]]]:
    """The synthetic callers (voice, words per minute), each with a share of the scripts."""
    phrases = random.Random(1).sample(load_content().phrases(), PLAIN)
    texts = [*phrases, *SHORT, *(line.strip() for line in HESITATING.strip().splitlines() * 2)]
    # Shuffled, so that each caller gets a mix of texts.
    random.Random(2).shuffle(texts)
    pauses, noises, peaks = cycle(PAUSES_MS), cycle(NOISES_RMS), cycle(PEAKS)
    scripts = []
    for text in texts:
        clauses = tuple(clause.strip() for clause in text.split("|"))
        scripts.append(Script(clauses, (), tuple(islice(pauses, len(clauses) - 1)), next(noises), next(peaks)))
    for number, (voice, rate_wpm) in enumerate(CALLERS):
        yield voice, rate_wpm, scripts[number :: len(CALLERS)]


def human_calls() -> Iterator[tuple[str, list[Script]]]:
    """The human recordings by speaker, alone and in pairs."""
    pauses = cycle(PAUSES_MS)

    def script(files: Sequence[str], texts: dict[str, str]) -> Script:
        clauses = tuple(texts[file] for file in files)
        return Script(clauses, tuple(files), tuple(islice(pauses, len(files) - 1)), _HUMAN_NOISE_RMS, 8_000)

    for name, texts in (("cards", _CARDS), ("reader", _READ)):
        files = [*texts]
        alone = [script([file], texts) for file in files]
        yield f"human {name}", alone + [script(pair, texts) for pair in pairwise(files)]
    for file in _OTHER:
        yield f"human {Path(file).stem}", [script([file], _OTHER)]


class Recorder:
    """The microphone of one caller; collects its reports."""

    def __init__(self, recognition: SphinxRecognition) -> None:
        self._recognition = recognition
        self._settings = MediaSettings()
        self._pts = 0
        self._frames_fed = 0
        self._began_s = 0.0
        self._finished_s = 0.0
        self._said: list[Report] = []
        self._final = asyncio.Event()

    async def open(self) -> None:
        utterances = await Utterances.open(self._settings, self._recognition, self._note)
        activity = VoiceActivity(self._settings, open_speech_model())
        # Nothing is played, so the echo guard passes everything.
        self._microphone = Microphone(self._settings, activity, LoudnessGuard(self._settings), utterances, self._note)

    async def close(self) -> None:
        await self._microphone.close()

    async def record(self, frames: Sequence[bytes]) -> tuple[list[Report], int]:
        """Feed the frames in real time, then finish. Returns the reports and the largest feeding delay in ms."""
        loop = asyncio.get_running_loop()
        self._said, latest_ms = [], 0.0
        self._final.clear()
        self._began_s = loop.time()
        for number, pcm in enumerate(frames, start=1):
            due_s = self._began_s + number * FRAME_MS / 1000  # a frame is complete when its last sample is spoken
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            latest_ms = max(latest_ms, (loop.time() - due_s) * 1000)
            frame = audio_frame(pcm, RATE_HZ)
            frame.pts, self._pts = self._pts, self._pts + FRAME_SAMPLES
            self._microphone.hear(frame)
        await asyncio.sleep(0.2)  # wait for the last partial
        if not self._said:
            raise SystemExit("the VAD did not hear this at all")
        self._finished_s = loop.time()
        self._microphone.finish_utterance()
        await asyncio.wait_for(self._final.wait(), 5.0)
        return self._said, round(latest_ms)

    def _note(self, event: Input) -> None:
        now_s = asyncio.get_running_loop().time()
        at_ms = round((now_s - self._began_s) * 1000)
        match event:
            case SpeechStarted():
                self._said.append(Report(at_ms, STARTED))
            case SpeechStopped():
                self._said.append(Report(at_ms, STOPPED))
            case SttPartial():
                self._said.append(Report(at_ms, PARTIAL, event.text))
            case SttFinal():
                self._said.append(Report(round((now_s - self._finished_s) * 1000), FINAL, event.text))
                self._final.set()


async def synthesized(text: str, voice: str, rate_wpm: int) -> bytes:
    """Synthesise a clause as PCM at the recogniser's sample rate."""
    chunks = [chunk async for chunk in EspeakSpeech(voice=voice, rate_wpm=rate_wpm).synthesize(Request(text))]
    resampler = av.AudioResampler("s16", "mono", SPEECH_RATE_HZ)
    whole = audio_frame(b"".join(chunk.pcm for chunk in chunks), chunks[0].sample_rate_hz)
    return b"".join(frame_pcm(frame) for given in (whole, None) for frame in resampler.resample(given))


def recorded(file: Path) -> bytes:
    """Read a clip of 16 kHz mono PCM, with or without a plain WAV header."""
    data = file.read_bytes()
    return data[44:] if file.suffix == ".wav" else data


def loud_spans(pcm: bytes, share: float) -> list[tuple[int, int]]:
    """Spans in ms that are louder than this share of the loudest window; short silences do not end a span."""
    size = 2 * SPEECH_RATE_HZ * _WINDOW_MS // 1000
    levels = [loudness_rms(pcm[at : at + size]) for at in range(0, len(pcm) - size + 1, size)]
    floor = max(levels) * share
    # A single loud window is a click.
    loud = [at for at in range(len(levels) - 1) if min(levels[at], levels[at + 1]) > floor]
    spans: list[tuple[int, int]] = []
    for begin_ms in (at * _WINDOW_MS for at in loud):
        end_ms = begin_ms + 2 * _WINDOW_MS
        if spans and begin_ms - spans[-1][1] < _SHORTEST_PAUSE_MS:
            spans[-1] = (spans[-1][0], end_ms)
        else:
            spans.append((begin_ms, end_ms))
    return spans


def in_a_room(pcm: bytes, script: Script, source: random.Random) -> bytes:
    """Scale the sound to the script's level and add its noise."""
    samples = array("h", pcm)
    factor = script.peak / max(max(samples), -min(samples))
    noise = script.noise_rms
    mixed = (sample * factor + (source.gauss(0, noise) if noise else 0.0) for sample in samples)
    return array("h", (max(-32_768, min(32_767, round(sample))) for sample in mixed)).tobytes()


def silence(ms: int) -> bytes:
    return bytes(2 * SPEECH_RATE_HZ * ms // 1000)


@dataclass(frozen=True, slots=True)
class Caller:
    """A voice, the recorder that listens to it, and its random source."""

    voice: str
    mode: Mode
    recorder: Recorder
    source: random.Random

    async def speak(self, script: Script, clips: Sequence[bytes]) -> Spoken:
        """Speak a script and record the reports; repeats it if the machine was too busy."""
        body = clips[0] + b"".join(silence(ms) + clip for ms, clip in zip(script.pauses_ms, clips[1:], strict=True))
        clean = silence(self.source.randint(*_LEAD_MS)) + body
        spans = loud_spans(clean, _HUMAN_SHARE if script.sources else _SYNTHETIC_SHARE)
        ends_ms = spans[-1][1]
        clean = clean[: len(silence(ends_ms))] + silence(_TAIL_MS)
        opus = ToOpusFrames()
        frames = opus.feed(in_a_room(clean, script, self.source), SPEECH_RATE_HZ) + opus.flush()
        return Spoken(
            text=" | ".join(script.clauses),
            voice=self.voice,
            source="+".join(script.sources) or "espeak",
            recognizer=self.mode,
            noise_rms=script.noise_rms,
            audio_ms=len(frames) * FRAME_MS,
            speech_ends_ms=ends_ms,
            pauses=tuple((before[1], after[0]) for before, after in pairwise(spans)),
            events=tuple(await self._in_time(frames)),
        )

    async def _in_time(self, frames: Sequence[bytes]) -> list[Report]:
        for _ in range(_ATTEMPTS):
            said, latest_ms = await self.recorder.record(frames)
            if latest_ms <= _LATEST_MS:
                return said
            print(f"{latest_ms} ms late: again", file=sys.stderr)
        raise SystemExit(f"this machine is too busy: audio was {latest_ms} ms late, {_ATTEMPTS} times in a row")


async def record_call(
    recognition: SphinxRecognition, mode: Mode, voice: str, script_and_clips: Sequence[tuple[Script, Sequence[bytes]]]
) -> list[Spoken]:
    caller = Caller(voice, mode, Recorder(recognition), random.Random(voice))
    await caller.recorder.open()
    corpus = []
    for script, clips in script_and_clips:
        spoken = await caller.speak(script, clips)
        print(f"{voice:16} {spoken.text[:70]:70} → {spoken.final.text}", file=sys.stderr)
        corpus.append(spoken)
    await caller.recorder.close()
    return corpus


async def record_synthetic() -> list[Spoken]:
    corpus = []
    async with SphinxRecognition(load_content().phrases()) as recognition:
        for voice, rate_wpm, scripts in synthetic_calls():
            clips = [[await synthesized(clause, voice, rate_wpm) for clause in script.clauses] for script in scripts]
            corpus += await record_call(recognition, "domain", voice, [*zip(scripts, clips, strict=True)])
    return corpus


async def record_humans(folder: Path) -> list[Spoken]:
    corpus = []
    async with SphinxRecognition((), mode="general") as recognition:
        for voice, scripts in human_calls():
            clips = [[recorded(folder / file) for file in script.sources] for script in scripts]
            corpus += await record_call(recognition, "general", voice, [*zip(scripts, clips, strict=True)])
    return corpus


async def main(folder: Path | None) -> None:
    corpus = await record_synthetic() + (await record_humans(folder) if folder else [])
    write(corpus)
    humans = sum(spoken.is_human for spoken in corpus)
    print(f"{CORPUS.name}: {len(corpus)} utterances, {humans} of them human, {CORPUS.stat().st_size // 1000} kB")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
