"""Open ears: when an utterance is decoded, what is noise, whose turn it is, and what is really understood."""

import asyncio
from itertools import pairwise

import numpy as np
import pytest
from service_peers import Say

from orchestrator.reference.moonshine import SAMPLE_RATE_HZ, MoonshineTranscript, read_vocabulary
from orchestrator.reference.moonshine_recognition import MoonshineRecognition
from orchestrator.reference.moonshine_utterance import MoonshineUtterance
from orchestrator.reference.moonshine_worker import MoonshineWorker
from orchestrator.reference.recognition_frames import Frame, Kind
from orchestrator.reference.recognition_loop import Results
from orchestrator.services.ports import Transcript, VoiceListener
from orchestrator.session.phrases import normal

SECOND = bytes(2 * SAMPLE_RATE_HZ)


class Ear:
    """Stands in for the model: hears how many seconds it was given, and notes the lengths and the drafts."""

    def __init__(self, text: str = "", log_probability: float = -0.1) -> None:
        self.asked_s: list[float] = []
        self.drafts: list[tuple[int, ...]] = []
        self._text = text
        self._log_probability = log_probability

    def transcribe(self, sound: np.ndarray, draft: tuple[int, ...] = ()) -> MoonshineTranscript:
        seconds = len(sound) / SAMPLE_RATE_HZ - 0.5  # of silence at the end
        self.asked_s.append(round(seconds, 2))
        self.drafts.append(draft)
        return MoonshineTranscript(self._text or f"{seconds:g} s.", (7, 8, 9), self._log_probability)


def test_a_partial_is_due_every_half_second_and_gets_the_last_one_as_a_draft() -> None:
    """Without its last token, which is the one that changes."""
    ear = Ear()
    utterance = MoonshineUtterance(ear)
    utterance.feed(SECOND[:15_000])
    assert utterance.undecoded_s < 0
    utterance.feed(SECOND[:15_000])
    assert utterance.undecoded_s >= 0
    assert utterance.decode() == "0.9375 s."
    assert utterance.undecoded_s < 0
    assert utterance.decode() is None  # nothing new
    assert ear.drafts == [(), (7, 8)]


def test_the_final_is_there_before_it_is_asked_for() -> None:
    """The speaker falls silent, and that is decoded at once; the silence after it is not."""
    ear = Ear()
    utterance = MoonshineUtterance(ear)
    utterance.feed(SECOND)
    utterance.voice(False)
    assert utterance.is_paused
    assert utterance.decode() == "1 s."
    assert not utterance.is_paused
    utterance.feed(SECOND)
    assert utterance.undecoded_s < 0
    assert utterance.finish() == "1 s."
    assert ear.asked_s == [1.0]


def test_who_goes_on_after_a_breath_is_heard_whole() -> None:
    """What was decoded in the breath is only a draft then."""
    ear = Ear()
    utterance = MoonshineUtterance(ear)
    utterance.feed(SECOND)
    utterance.voice(False)
    utterance.decode()
    utterance.feed(SECOND)
    utterance.voice(True)
    utterance.feed(SECOND)
    assert utterance.finish() == "3 s."


def test_a_long_utterance_is_cut_where_the_speaker_pauses() -> None:
    """From 15 s on; the model gets no more than what came after."""
    ear = Ear()
    utterance = MoonshineUtterance(ear)
    utterance.feed(SECOND * 16)
    utterance.voice(False)
    assert utterance.decode() == "16 s."
    utterance.voice(True)
    utterance.feed(SECOND * 2)
    assert utterance.finish() == "16 s. 2 s."
    assert max(ear.asked_s) == 16


def test_who_never_pauses_is_cut_at_the_quietest_moment() -> None:
    """Before 28 s: the model was trained on up to 30 s. No sound is lost or heard twice."""
    ear = Ear()
    utterance = MoonshineUtterance(ear)
    loud = (np.full(SAMPLE_RATE_HZ, 8_000)).astype("<i2").tobytes()
    for second in range(70):
        utterance.feed(loud if second not in (24, 47) else SECOND)
    utterance.finish()
    assert max(ear.asked_s) <= 28
    assert sum(ear.asked_s) == pytest.approx(70, abs=0.05)
    assert 24 <= ear.asked_s[0] <= 25
    assert 47 <= ear.asked_s[0] + ear.asked_s[1] <= 48


@pytest.mark.parametrize(
    ("text", "score", "expected"),
    [
        ("You", -0.3, ""),
        ("you.", -0.1, ""),
        ("Thank you.", -0.1, "Thank you."),
        ("The the.", -1.3, ""),
        ("?", -0.2, ""),
    ],
)
def test_what_the_model_makes_of_noise_is_dropped(text: str, score: float, expected: str) -> None:
    """It says "You" where nobody speaks, and what it is very unsure of is no speech."""
    utterance = MoonshineUtterance(Ear(text, score))
    utterance.feed(SECOND)
    assert (utterance.decode() or "") == expected.strip("?")
    assert utterance.finish() == expected.strip("?")


class Sent(Results):
    """Collects results."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def write(self, frame: Frame) -> None:
        self.frames.append(frame)


def test_finals_come_first_then_who_fell_silent_then_partials() -> None:
    """One process serves all microphones: a caller who waits is served before one who still speaks."""
    sent = Sent()
    worker = MoonshineWorker(sent, Ear())
    for number in (1, 2, 3):
        worker.handle(Frame(Kind.START, number, 1))
        worker.handle(Frame(Kind.SOUND, number, 1, SECOND))
    worker.handle(Frame(Kind.SILENT, 2, 1))
    worker.handle(Frame(Kind.FINISH, 3, 1))
    while worker.work():
        pass
    assert [(frame.kind, frame.recognizer) for frame in sent.frames] == [
        (Kind.FINAL, 3),
        (Kind.PARTIAL, 2),
        (Kind.PARTIAL, 1),
    ]


def test_nothing_is_decoded_for_who_cancelled_or_left() -> None:
    """Nor said of them."""
    sent, ear = Sent(), Ear()
    worker = MoonshineWorker(sent, ear)
    for number, end in ((1, Kind.CANCEL), (2, Kind.CLOSE)):
        worker.handle(Frame(Kind.START, number, 1))
        worker.handle(Frame(Kind.SOUND, number, 1, SECOND))
        worker.handle(Frame(end, number, 1))
    worker.handle(Frame(Kind.SOUND, 1, 1, SECOND))  # late
    assert not worker.work()
    assert (sent.frames, ear.asked_s) == ([], [])


def test_each_finish_is_answered_also_for_who_left() -> None:
    """Without decoding. A process that does not answer counts as hanging, and is killed."""
    sent, ear = Sent(), Ear()
    worker = MoonshineWorker(sent, ear)
    for kind in (Kind.START, Kind.SOUND, Kind.FINISH, Kind.CLOSE):
        worker.handle(Frame(kind, 1, 1, SECOND if kind is Kind.SOUND else b""))
    assert not worker.work()
    assert ([(frame.kind, frame.payload) for frame in sent.frames], ear.asked_s) == ([(Kind.FINAL, b"")], [])


def test_a_failure_closes_its_utterance_alone() -> None:
    """And says why."""

    class Broken(Ear):
        def transcribe(self, sound: np.ndarray, draft: tuple[int, ...] = ()) -> MoonshineTranscript:
            raise RuntimeError("out of memory")

    sent = Sent()
    worker = MoonshineWorker(sent, Broken())
    worker.handle(Frame(Kind.START, 1, 1))
    worker.handle(Frame(Kind.SOUND, 1, 1, SECOND))
    worker.work()
    assert [(frame.kind, frame.payload) for frame in sent.frames] == [(Kind.FAILED, b"RuntimeError: out of memory")]
    assert not worker.work()


def test_the_vocabulary_has_lengths_of_one_or_two_bytes() -> None:
    """As in Moonshine's tokenizer.bin."""
    assert read_vocabulary(b"\x02ab\x80\x01" + b"c" * 128 + b"\x00") == [b"ab", b"c" * 128, b""]


OPEN = (
    "Can you tell me a story about a dragon?",
    "My order number is four seven two nine.",
    "Is the soup still warm at a quarter past five?",
    "I left my umbrella at the window yesterday.",
)


async def test_open_english_is_understood(say: Say) -> None:
    """Sentences that no phrase list has, with partials on the way; one that the list has counts as complete."""
    async with MoonshineRecognition([OPEN[0]]) as service:
        heard: asyncio.Queue[Transcript] = asyncio.Queue()
        recognizer = await service.open(heard.put_nowait, lambda error: pytest.fail(error))
        assert isinstance(recognizer, VoiceListener)
        for sentence in OPEN:
            recognizer.start()
            sound = await say(sentence)
            for at in range(0, len(sound), 640):
                recognizer.feed(sound[at : at + 640])
            recognizer.finish()
            final = await asyncio.wait_for(heard.get(), 20)
            spoken = final.text.lower().replace("5:15", "a quarter past five").replace("4729", "four seven two nine")
            assert normal(spoken) == normal(sentence)
        recognizer.start()
        sound = await say(OPEN[0])
        recognizer.feed(sound)
        recognizer.voice(False)
        partial = await asyncio.wait_for(heard.get(), 20)
        assert (partial.is_final, partial.is_complete, normal(partial.text)) == (False, True, normal(OPEN[0]))
        recognizer.finish()
        final = await asyncio.wait_for(heard.get(), 20)
        assert (final.is_final, final.text) == (True, partial.text)
        recognizer.start()
        recognizer.feed(bytes(64_000))
        recognizer.finish()
        assert (await asyncio.wait_for(heard.get(), 20)).text == ""
        await recognizer.close()


async def test_partials_come_while_the_speaker_speaks(say: Say) -> None:
    """In real time, each different from the one before."""
    async with MoonshineRecognition() as service:
        heard: list[Transcript] = []
        done = asyncio.Event()
        recognizer = await service.open(lambda one: (heard.append(one), one.is_final and done.set()), pytest.fail)
        recognizer.start()
        sound = await say("I would like to know whether you have a table for six people tomorrow evening.")
        loop = asyncio.get_running_loop()
        began = loop.time()
        for at in range(0, len(sound), 640):
            await asyncio.sleep(max(0.0, began + at / 32_000 - loop.time()))
            recognizer.feed(sound[at : at + 640])
        recognizer.finish()
        await asyncio.wait_for(done.wait(), 20)
        partials = [one.text for one in heard if not one.is_final]
        assert len(partials) >= 3
        assert all(before != after for before, after in pairwise(partials))
        assert normal(heard[-1].text).endswith("six people tomorrow evening")
