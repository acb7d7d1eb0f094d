"""The microphone: what is reported, what reaches the recogniser, and when. Real model, real resampling, no network."""

import asyncio
import time

import pytest

from orchestrator.media.settings import MediaSettings
from orchestrator.media.vad import loudness_rms
from orchestrator.services.ports import Transcript
from tests.media.microphone_bench import SILENCE_S, Bench, until
from tests.media.speech import scaled


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


@pytest.mark.parametrize("has_stopped", [False, True])
async def test_a_late_final_does_not_end_the_speech_after_it(sentence, has_stopped):
    """The recogniser needs a second, and the user has gone on: the reducer takes words as the end of all speech."""
    bench = await Bench.set_up()
    bench.hear(SILENCE_S + sentence + SILENCE_S)
    bench.recognizer.finish = lambda: None
    bench.microphone.finish_utterance()
    bench.hear(sentence + (SILENCE_S if has_stopped else b""))
    speech = bench.events[2:]
    assert [event.type for event in speech] == ["SPEECH_STARTED", "SPEECH_STOPPED"][: 1 + has_stopped]
    bench.stt.transcribe(Transcript("turn on the lights", is_final=True))
    assert bench.types()[2 + len(speech)] == "STT_FINAL"
    boundary, *again = bench.events[3 + len(speech) :]
    assert (boundary.type, boundary.duration_ms, again) == ("SPEECH_STOPPED", 0, speech)


async def test_speech_that_began_just_before_the_finish_goes_on_after_its_final(sentence, word):
    """The onset and the command to finish have crossed."""
    bench = await Bench.set_up()
    bench.hear(SILENCE_S + word + SILENCE_S[: 32 * 400] + sentence[: 32 * 250])
    onset = bench.events[-1]
    bench.microphone.finish_utterance()
    await asyncio.sleep(0)
    assert bench.types()[-3:] == ["STT_FINAL", "SPEECH_STOPPED", "SPEECH_STARTED"]
    assert bench.events[-1] == onset


async def test_a_final_is_the_last_word_about_speech_that_nobody_follows(sentence):
    """Of a sound without words, of noise that goes on for long, or of a recogniser that ends parts by itself."""
    bench = await Bench.set_up()
    bench.hear(SILENCE_S + sentence)
    bench.stt.transcribe(Transcript("turn on", is_final=True))
    bench.microphone.finish_utterance()
    await asyncio.sleep(0)
    bench.recognizer.finish = lambda: None
    bench.hear(SILENCE_S)
    bench.microphone.finish_utterance()
    bench.hear(sentence)
    bench.stt.transcribe(Transcript(" ", is_final=True))
    assert bench.types() == [
        *("SPEECH_STARTED", "STT_FINAL", "STT_FINAL", "SPEECH_STOPPED"),
        *("SPEECH_STARTED", "STT_FINAL"),
    ]


async def test_endless_speech_is_cut_into_utterances_without_a_gap(sentence):
    """At the limit one is finished and the next begun with the very next sample."""
    bench = await Bench.set_up(MediaSettings(utterance_limit_ms=1000))
    bench.hear(SILENCE_S + sentence)
    assert bench.recognizer.calls == ["start", "finish", "start"]
    fed_ms = sum(map(len, bench.recognizer.utterances)) // 32
    assert fed_ms == pytest.approx(500 + len(sentence) // 32, abs=200)


@pytest.mark.parametrize("is_cut_before", [False, True])
async def test_silence_up_to_the_limit_ends_the_utterance_and_opens_no_other(sentence, is_cut_before):
    """Also in an utterance that was opened by a cut in mid-speech. What is said next has its own."""
    limit_ms = 1_000 if is_cut_before else len(sentence) // 32 + 2_000
    bench = await Bench.set_up(MediaSettings(utterance_limit_ms=limit_ms))
    bench.hear(SILENCE_S + sentence + 4 * SILENCE_S)
    assert bench.types() == ["SPEECH_STARTED", "SPEECH_STOPPED"]
    assert bench.recognizer.calls == ["start", "finish"] * (1 + is_cut_before)
    bench.hear(sentence[: 32 * 500])
    assert bench.recognizer.calls[-1] == "start"


async def test_partials_are_reported_when_they_change():
    """The same words again are no news, nor are none."""
    bench = await Bench.set_up()
    for text in ("turn", "turn", "", "turn on"):
        bench.stt.transcribe(Transcript(text, is_final=False, is_complete=text.endswith("on")))
    assert [(event.text, event.is_complete) for event in bench.events] == [("turn", False), ("turn on", True)]


async def test_the_words_of_a_lost_utterance_are_reported_when_the_caller_repeats_them(sentence):
    """Lost without a final, by a closed microphone, then by a failure: the next partial is news each time."""
    bench = await Bench.set_up()
    first = bench.recognizer
    for lose in (lambda: bench.microphone.set("closed"), lambda: bench.stt.fail("it died"), lambda: None):
        bench.microphone.set("open")
        bench.hear(SILENCE_S + sentence)
        bench.stt.transcribe(Transcript("turn on", is_final=False, is_complete=True))
        lose()
        if bench.types()[-1] == "HEARING_FAILED":
            await until(lambda: bench.recognizer is not first)
    assert [event.is_complete for event in bench.events if event.type == "STT_PARTIAL"] == [True] * 3
