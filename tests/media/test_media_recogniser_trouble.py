"""A recogniser of the microphone that breaks, hangs, raises or does not open: its replacement, and what is reported."""

import asyncio

import pytest

from orchestrator.media.settings import MediaSettings
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Transcript
from tests.media.microphone_bench import SILENCE_S, Bench, until
from tests.media.stubs import RememberingSpeechToText


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


async def hangs():
    await asyncio.Event().wait()


async def is_cancelled():
    """Awaits a task of its own that it has cancelled."""
    task = asyncio.create_task(hangs())
    task.cancel()
    await task


@pytest.mark.parametrize("trouble", [hangs, is_cancelled])
async def test_a_recogniser_that_does_not_open_again_is_tried_again(sentence, monkeypatch, trouble):
    """An `open` that hangs has its time, as the first one of a call has. A cancellation from within is a failure."""
    bench = await Bench.set_up()
    monkeypatch.setattr("orchestrator.media.utterance.OPEN_WITHIN_S", 0.05)
    opened, tried = bench.stt.open, []

    async def fails_once(*about):
        tried.append(about)
        if len(tried) == 1:
            await trouble()
        return await opened(*about)

    monkeypatch.setattr(bench.stt, "open", fails_once)
    broken = bench.recognizer
    bench.stt.fail("the process died")
    await until(lambda: bench.recognizer is not broken)
    assert len(tried) == 2


@pytest.mark.parametrize("trouble", [hangs, is_cancelled])
async def test_a_broken_recogniser_that_does_not_close_is_replaced(monkeypatch, trouble):
    """Its `close` has its time, and may fail in any way."""
    bench = await Bench.set_up()
    broken = bench.recognizer
    monkeypatch.setattr("orchestrator.media.utterance._CLOSE_WITHIN_S", 0.05)
    monkeypatch.setattr(broken, "close", trouble)
    bench.stt.fail("the process died")
    await until(lambda: bench.recognizer is not broken)


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
