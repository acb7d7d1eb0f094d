"""The microphone: what is reported, what reaches the recogniser, and when. Real model, real resampling, no network."""

import asyncio
import time

import av
import pytest

from orchestrator.media.echo import LoudnessGuard
from orchestrator.media.microphone import Microphone
from orchestrator.media.settings import MediaSettings
from orchestrator.media.speech_model import open_speech_model
from orchestrator.media.utterance import Utterances
from orchestrator.media.vad import VoiceActivity, loudness_rms
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Transcript
from tests.media.speech import resample, scaled
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


def first_sound_ms(pcm: bytes, above_rms: int = 300) -> int:
    """Where the first 10 ms louder than this begin; the length when there are none."""
    starts = range(0, len(pcm), 320)
    return next((s // 32 for s in starts if loudness_rms(bytes(pcm[s : s + 320])) > above_rms), len(pcm) // 32)


async def test_speech_is_reported_in_media_time(sentence):
    """SPEECH_STARTED and SPEECH_STOPPED carry positions in the microphone's own time."""
    bench = await Bench.set_up()
    bench.hear(SILENCE_S + sentence + SILENCE_S)
    started, stopped = bench.events
    assert (started.type, stopped.type) == ("SPEECH_STARTED", "SPEECH_STOPPED")
    assert 950 <= started.media_ms <= 1120
    assert stopped.duration_ms == stopped.media_ms - started.media_ms
    assert abs(stopped.media_ms - 1000 - len(sentence) // 32) < 120


async def test_the_first_word_reaches_the_recogniser_whole(sentence):
    """With the pre-roll the recogniser hears the silence before the first sound, and every sample after it."""
    bench = await Bench.set_up()
    bench.hear(SILENCE_S + sentence + SILENCE_S)
    (fed,) = bench.recognizer.utterances
    lead_ms = first_sound_ms(fed)
    assert 200 <= lead_ms < 500
    spoken = fed[32 * (lead_ms - first_sound_ms(sentence)) :]
    for start in range(0, len(sentence) - 3200, 3200):  # the same loudness in each 100 ms, from the first
        sent = loudness_rms(sentence[start : start + 3200])
        assert loudness_rms(bytes(spoken[start : start + 3200])) == pytest.approx(sent, rel=0.15, abs=80)


async def test_nothing_is_fed_before_speech():
    """Silence opens no utterance."""
    bench = await Bench.set_up()
    bench.hear(SILENCE_S)
    assert bench.recognizer.calls == []


async def test_finish_gives_one_final(sentence):
    """FinishUtterance closes the utterance; its final is reported, and a second finish gives nothing."""
    bench = await Bench.set_up()
    bench.hear(SILENCE_S + sentence + SILENCE_S)
    bench.microphone.finish_utterance()
    bench.microphone.finish_utterance()
    await asyncio.sleep(0)
    assert bench.recognizer.calls == ["start", "finish"]
    assert bench.types() == ["SPEECH_STARTED", "SPEECH_STOPPED", "STT_FINAL"]
    assert bench.events[-1].text == "utterance 1"


async def test_speech_that_resumes_goes_on_in_the_same_utterance(sentence):
    """Reported again, but the recogniser is not reopened and misses nothing."""
    bench = await Bench.set_up()
    bench.hear(SILENCE_S + sentence + SILENCE_S + sentence + SILENCE_S)
    assert bench.types() == ["SPEECH_STARTED", "SPEECH_STOPPED"] * 2
    assert bench.recognizer.calls == ["start"]
    fed_ms = len(bench.recognizer.utterances[0]) // 32
    assert fed_ms > 2 * len(sentence) // 32 + 2000


async def test_the_next_utterance_does_not_hear_the_end_of_the_last(sentence):
    """The pre-roll of the second never reaches back into the speech of the first."""
    bench = await Bench.set_up()
    bench.hear(SILENCE_S + sentence + SILENCE_S[: 32 * 260])
    bench.microphone.finish_utterance()
    bench.hear(sentence + SILENCE_S)
    second = bench.recognizer.utterances[1]
    assert len(second) // 32 <= 260 + len(sentence) // 32 + 1000 + 60
    assert first_sound_ms(second) > 100


async def test_a_finish_in_mid_speech_loses_no_word_of_the_rest(sentence, word):
    """Speech resumed just as the finish came: the rest is an utterance of its own, heard from its first sound."""
    bench = await Bench.set_up()
    bench.hear(SILENCE_S + word + SILENCE_S[: 32 * 400] + sentence[: 32 * 250])
    assert bench.types()[-1] == "SPEECH_STARTED"
    bench.microphone.finish_utterance()
    bench.hear(sentence[32 * 250 :] + SILENCE_S)
    assert bench.recognizer.calls == ["start", "finish", "start"]
    assert first_sound_ms(bench.recognizer.utterances[1]) > 50
    assert len(bench.recognizer.utterances[1]) // 32 > len(sentence) // 32 + 1000


async def test_a_gated_microphone_hears_the_first_word_and_reports_just_the_same(sentence):
    """What the reducer makes of it is its own affair: events and pre-roll are those of an open microphone."""
    opened, gated = await Bench.set_up(), await Bench.set_up()
    gated.microphone.set("gated")
    for bench in (opened, gated):
        bench.hear(SILENCE_S + sentence + SILENCE_S)
    assert gated.events == opened.events
    assert gated.recognizer.utterances == opened.recognizer.utterances


async def test_opening_the_gate_in_mid_speech_does_not_disturb_the_utterance(sentence):
    """One start, every sample once."""
    steady, changed = await Bench.set_up(), await Bench.set_up()
    steady.hear(SILENCE_S + sentence + SILENCE_S)
    changed.microphone.set("gated")
    changed.hear(SILENCE_S + sentence[:20_480])
    changed.microphone.set("open")
    changed.hear(sentence[20_480:] + SILENCE_S)
    assert changed.recognizer.calls == steady.recognizer.calls == ["start"]
    assert abs(len(changed.recognizer.utterances[0]) - len(steady.recognizer.utterances[0])) <= 1280


async def test_a_closed_microphone_hears_nothing(sentence):
    """The open utterance is cancelled, nothing is reported; the media time goes on."""
    bench = await Bench.set_up()
    bench.hear(SILENCE_S + sentence[:20_000])
    bench.microphone.set("closed")
    bench.hear(sentence)
    assert bench.recognizer.calls == ["start", "cancel"]
    assert bench.types() == ["SPEECH_STARTED"]
    bench.microphone.set("open")
    begins_ms = bench.pts // 48
    bench.hear(SILENCE_S + sentence + SILENCE_S)
    assert bench.types() == ["SPEECH_STARTED", "SPEECH_STARTED", "SPEECH_STOPPED"]
    assert bench.events[1].media_ms == pytest.approx(begins_ms + 1000, abs=120)


async def test_the_agents_own_echo_is_not_reported(sentence):
    """While the agent is audible, its quieter copy in the microphone is no speech."""
    bench = await Bench.set_up(MediaSettings(echo_window_ms=60_000))
    for i in range(0, len(sentence), 640):
        bench.echo.played(sentence[i : i + 640], time.monotonic())
    bench.hear(SILENCE_S + scaled(sentence, 0.12) + SILENCE_S)
    assert bench.events == []
    bench.hear(sentence)
    assert bench.types()[0] == "SPEECH_STARTED"


async def test_lost_packets_keep_the_media_time(sentence):
    """Holes are filled with silence: 100 ms lost before speech move nothing."""
    whole, lossy = await Bench.set_up(), await Bench.set_up()
    whole.hear(SILENCE_S + sentence + SILENCE_S)
    lossy.hear(SILENCE_S + sentence + SILENCE_S, lose=range(20, 25))
    assert lossy.events[0].media_ms == pytest.approx(whole.events[0].media_ms, abs=35)
    assert lossy.events[1].media_ms == pytest.approx(whole.events[1].media_ms, abs=35)


async def test_a_long_gap_ends_speech_and_keeps_the_media_time(sentence):
    """Five seconds without packets: the speech before them ended, positions go on counting."""
    bench = await Bench.set_up()
    bench.hear(SILENCE_S + sentence)
    bench.pts += 5 * 48_000
    bench.hear(SILENCE_S + sentence)
    assert bench.types() == ["SPEECH_STARTED", "SPEECH_STOPPED", "SPEECH_STARTED"]
    assert bench.events[2].media_ms == pytest.approx(7000 + len(sentence) // 32, abs=150)


async def test_a_stalled_connection_ends_speech(sentence):
    """Packets stop in mid-speech: SPEECH_STOPPED comes all the same, or the turn would never end."""
    bench = await Bench.set_up(MediaSettings(stall_ms=40))
    bench.hear(SILENCE_S + sentence)
    await until(lambda: "SPEECH_STOPPED" in bench.types())


async def test_an_utterance_nobody_finishes_finishes_itself(sentence):
    """The watchdog: a lost FinishUtterance must not swallow what was said."""
    bench = await Bench.set_up(MediaSettings(finish_watchdog_ms=30))
    bench.hear(SILENCE_S + sentence + SILENCE_S)
    await until(lambda: "STT_FINAL" in bench.types())


async def test_the_watchdog_leaves_resumed_speech_alone(sentence):
    """Speech that goes on disarms it."""
    bench = await Bench.set_up(MediaSettings(finish_watchdog_ms=30))
    bench.hear(SILENCE_S + sentence + SILENCE_S + sentence)
    await asyncio.sleep(0.08)
    assert bench.recognizer.calls == ["start"]


async def test_endless_speech_is_cut_into_utterances_without_a_gap(sentence):
    """At the limit one is finished and the next begun with the very next sample."""
    bench = await Bench.set_up(MediaSettings(utterance_limit_ms=1000))
    bench.hear(SILENCE_S + sentence)
    assert bench.recognizer.calls == ["start", "finish", "start"]
    fed_ms = sum(map(len, bench.recognizer.utterances)) // 32
    assert fed_ms == pytest.approx(500 + len(sentence) // 32, abs=200)


async def test_partials_are_reported_when_they_change():
    """The same words again are no news, nor are none."""
    bench = await Bench.set_up()
    for text in ("turn", "turn", "", "turn on"):
        bench.stt.transcribe(Transcript(text, is_final=False, is_complete=text.endswith("on")))
    assert [(event.text, event.is_complete) for event in bench.events] == [("turn", False), ("turn on", True)]


async def test_a_broken_recogniser_owes_nothing_and_is_replaced(sentence):
    """Its open utterance ends in an empty final; another one is opened, and hears what follows."""
    bench = await Bench.set_up()
    broken = bench.recognizer
    bench.hear(SILENCE_S + sentence)
    bench.stt.fail("the process died")
    bench.microphone.finish_utterance()
    assert bench.types() == ["SPEECH_STARTED", "STT_FINAL", "HEARING_FAILED"]
    assert (bench.events[-1].error, bench.events[-1].is_utterance_lost) == ("the process died", True)
    await until(lambda: bench.recognizer is not broken)
    assert broken.calls[-1] == "close"
    bench.hear(SILENCE_S + sentence)
    assert bench.recognizer.calls[-1] == "start"


async def test_a_recogniser_that_breaks_between_utterances_is_replaced_without_loss(sentence):
    """The session is told, though nothing was lost; the next utterance is understood."""
    bench = await Bench.set_up()
    broken, transcribe = bench.recognizer, bench.stt.transcribe
    bench.stt.fail("the connection to the vendor is gone")
    assert [(event.type, event.is_utterance_lost) for event in bench.events] == [("HEARING_FAILED", False)]
    await until(lambda: bench.recognizer is not broken)
    transcribe(Transcript("a late word", is_final=True))
    bench.hear(SILENCE_S + sentence + SILENCE_S)
    bench.microphone.finish_utterance()
    await until(lambda: "STT_FINAL" in bench.types())
    assert [event.text for event in bench.events if event.type == "STT_FINAL"] == ["utterance 1"]


@pytest.mark.parametrize("method", ["start", "feed", "finish", "cancel"])
async def test_a_recogniser_that_raises_has_broken(sentence, method, monkeypatch):
    """Whichever method: no frame of the microphone is lost for it, and another one is opened."""
    bench = await Bench.set_up()
    broken = bench.recognizer

    def boom(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(broken, method, boom)
    bench.hear(SILENCE_S + sentence + SILENCE_S)
    bench.microphone.set("closed") if method == "cancel" else bench.microphone.finish_utterance()
    await until(lambda: bench.recognizer is not broken)
    assert [event.error for event in bench.events if event.type == "HEARING_FAILED"] == ["RuntimeError: boom"]


async def test_a_recogniser_that_hangs_is_replaced_while_the_caller_repeats_themselves(sentence, monkeypatch):
    """Each "hello?" ends before the time for the final of the one before is over."""
    bench = await Bench.set_up(MediaSettings(final_within_ms=1_000))
    hanging = bench.recognizer
    monkeypatch.setattr(hanging, "finish", lambda: None)
    async with asyncio.timeout(5):
        while bench.recognizer is hanging:
            bench.hear(SILENCE_S + sentence + SILENCE_S)
            bench.microphone.finish_utterance()
            await asyncio.sleep(0.05)
    assert "HEARING_FAILED" in bench.types()


async def test_a_recogniser_that_does_not_open_again_is_tried_again(sentence, monkeypatch):
    """An `open` that hangs has its time, as the first one of a call has."""
    bench = await Bench.set_up()
    monkeypatch.setattr("orchestrator.media.utterance.OPEN_WITHIN_S", 0.05)
    opened, tried = bench.stt.open, []

    async def hangs_once(*about):
        tried.append(about)
        if len(tried) == 1:
            await asyncio.Event().wait()
        return await opened(*about)

    monkeypatch.setattr(bench.stt, "open", hangs_once)
    broken = bench.recognizer
    bench.stt.fail("the process died")
    await until(lambda: bench.recognizer is not broken)
    assert len(tried) == 2


async def test_a_recogniser_that_gives_no_final_hangs(sentence, monkeypatch):
    """It is given up after a while, each time: the user is never unheard without a word."""
    bench = await Bench.set_up(MediaSettings(final_within_ms=50))
    for number in (1, 2, 3, 4):
        hanging = bench.recognizer
        monkeypatch.setattr(hanging, "finish", lambda: None)
        bench.hear(SILENCE_S + sentence + SILENCE_S)
        bench.microphone.finish_utterance()
        await until(lambda: bench.types().count("HEARING_FAILED") == number)  # noqa: B023 - awaited in its turn
        await until(lambda: bench.recognizer is not hanging)  # noqa: B023
    lost = [event.is_utterance_lost for event in bench.events if event.type == "HEARING_FAILED"]
    assert lost == [True] * 4


async def test_while_there_is_no_recogniser_each_utterance_is_lost_with_a_word(sentence, monkeypatch):
    """It cannot be opened for a while; then it is, and what is said by then is understood, though it began before."""
    bench = await Bench.set_up()
    broken, opens = bench.recognizer, asyncio.Event()
    monkeypatch.setattr("orchestrator.media.utterance._OPEN_AGAIN_S", (0.01,))

    async def refuses(*callbacks: object) -> object:
        if not opens.is_set():
            raise ServiceError("cannot connect")
        return await RememberingSpeechToText.open(bench.stt, *callbacks)

    monkeypatch.setattr(bench.stt, "open", refuses)
    bench.stt.fail("gone")
    for number in (2, 3):
        bench.hear(SILENCE_S + sentence + SILENCE_S)
        bench.microphone.finish_utterance()
        await until(lambda: bench.types().count("HEARING_FAILED") == number)  # noqa: B023
    assert [e.is_utterance_lost for e in bench.events if e.type == "HEARING_FAILED"] == [False, True, True]
    half = len(sentence) // 4 * 2  # whole samples
    bench.hear(SILENCE_S + sentence[:half])
    opens.set()
    await until(lambda: bench.recognizer is not broken)
    await until(lambda: bench.recognizer.calls == ["start"])
    bench.hear(sentence[half:] + SILENCE_S)
    bench.microphone.finish_utterance()
    await until(lambda: bench.events[-1].type == "STT_FINAL" and bench.events[-1].text == "utterance 1")


async def test_a_microphone_that_is_released_opens_no_recogniser(monkeypatch):
    """The call is over while another one is being opened."""
    bench = await Bench.set_up()
    bench.stt.fail("gone")
    await bench.microphone.close()
    assert not [task for task in asyncio.all_tasks() if "reopen" in task.get_name() and not task.cancelling()]


async def until(true) -> None:
    async with asyncio.timeout(3):
        while not true():  # noqa: ASYNC110  (what is awaited has no event: it is a list that grows)
            await asyncio.sleep(0.01)
