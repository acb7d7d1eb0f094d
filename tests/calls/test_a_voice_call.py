"""Whole calls: a real process, a real Redis, real WebRTC, real speech in and out."""

import asyncio
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.derived import CommandIssued, ProcessingComplete, StateChanged
from events.envelope import Event
from events.inputs import IntentResolved, PlaybackDone, RagAnswered, SttFinal
from orchestrator.session.phrases import normal
from tests.calls.checks import CASE_1, CASE_2, exported, shape
from tests.calls.service import Caller, Service
from tests.media.peer import AUDIBLE_RMS, read_wav
from tests.media.speech import speak

pytestmark = pytest.mark.calls


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Spoken sentences, each through a WAV file, as a microphone would give them."""
    folder = tmp_path_factory.mktemp("speech")
    return {text: _through_a_wav_file(folder / f"{n}.wav", speak(text)) for n, text in enumerate(SENTENCES)}


SENTENCES = ("hello", "what can you do", "stop", "when do you close")


def _through_a_wav_file(path: Path, pcm: bytes) -> bytes:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(pcm)
    return read_wav(path)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with Service(tmp_path / "data") as running:
        yield running


async def test_a_call_is_answered_and_ends_in_listening(service: Service, speech: dict[str, bytes]) -> None:
    """The user says hello, hears the answer, and the golden log has the shape of test case 1."""
    async with Caller(service) as caller:
        await caller.hears("phase", phase="LISTENING")
        await caller.peer.say(speech["hello"])
        await caller.hears("reply")
        heard = await caller.peer.hears_agent(within_s=10)
        await caller.hears("phase", phase="LISTENING", reason="playback_done")
        assert heard.rms > AUDIBLE_RMS
        log = await exported(service, caller.session_id)
        assert shape(caller.golden) == CASE_1
    final = next(event for event in log if isinstance(event, SttFinal))
    assert normal(final.text) == "hello"
    assert asked_together(log) == [True]
    done = next(event for event in log if isinstance(event, PlaybackDone))
    assert done.confirmed_by == "client"
    assert isinstance(log[-1], CommandIssued)
    assert [e.to_phase for e in log if isinstance(e, StateChanged)][-1] == "LISTENING"


async def test_speech_during_the_answer_interrupts_it(service: Service, speech: dict[str, bytes]) -> None:
    """The user speaks over the agent: silence at once, the first word of the interruption intact, and handled."""
    async with Caller(service) as caller:
        await caller.hears("phase", phase="LISTENING")
        await caller.peer.say(speech["what can you do"])
        await caller.hears("transcript", is_final=True)
        await caller.hears("reply")
        await caller.peer.hears_agent(within_s=10)
        saying = asyncio.create_task(caller.peer.say(speech["when do you close"]))
        stopped = await caller.hears("playback_stop", playback_id="answer-1")
        await saying
        final = await caller.hears("transcript", is_final=True)
        assert normal(final["text"]) == "when do you close"
        second = await caller.hears("reply", playback_id="answer-2")
        await caller.peer.hears_agent(within_s=10, after_s=second["_at_s"])
        late = audible_between(caller, stopped["_at_s"] + 0.06, second["_at_s"])
        assert late == [], "agent audio after the flush"
        await caller.hears("phase", phase="LISTENING", reason="playback_done")
        await exported(service, caller.session_id)
        assert shape(caller.golden)[len(CASE_1) - 3 :][: len(CASE_2)] == CASE_2


async def test_intent_and_answer_run_in_parallel(service: Service) -> None:
    """In each turn both are asked before either answers, and the join says what that saved."""
    async with Caller(service, voice=False) as caller:
        await caller.hears("phase", phase="LISTENING")
        for turn in range(1, 10):
            await caller.send(type="text", text="when are you open")
            await caller.hears("reply", playback_id=f"answer-{turn}")
            await caller.hears("phase", phase="LISTENING", turn=turn)
        log = await exported(service, caller.session_id)
    assert asked_together(log) == [True] * 9
    assert saved_us(log) == saved_by_the_services(log)


async def test_two_calls_at_once_do_not_touch_each_other(service: Service, speech: dict[str, bytes]) -> None:
    """Both speak at the same time: no event and no line crosses over, both are answered aloud."""
    async with Caller(service) as one, Caller(service) as two:
        assert one.session_id != two.session_id
        await asyncio.gather(one.hears("phase", phase="LISTENING"), two.hears("phase", phase="LISTENING"))
        await asyncio.gather(one.peer.say(speech["hello"]), two.peer.say(speech["when do you close"]))
        await asyncio.gather(one.peer.hears_agent(within_s=10), two.peer.hears_agent(within_s=10))
        done = {"phase": "LISTENING", "reason": "playback_done"}
        await asyncio.gather(one.hears("phase", **done), two.hears("phase", **done))
        for caller, text in ((one, "hello"), (two, "when do you close")):
            log = await exported(service, caller.session_id)
            assert {event.session_id for event in log} == {caller.session_id}
            assert [normal(event.text) for event in log if isinstance(event, SttFinal)] == [text]
            assert shape(caller.golden) == CASE_1
            assert all(f"[{caller.session_id}]" in m["line"] for _, m in caller.messages if m["type"] == "log")


def audible_between(caller: Caller, begin_s: float, end_s: float) -> list[float]:
    return [f.at_s for f in caller.peer.heard if begin_s < f.at_s < end_s and f.rms > AUDIBLE_RMS]


def asked_together(log: list[Event]) -> list[bool]:
    """Per turn: whether intent and answer were both asked before either of them answered, as their effects saw it."""
    results = [event for event in log if isinstance(event, IntentResolved | RagAnswered)]
    asked = [event.observed_at_us - event.elapsed_us for event in results]
    answered = [event.observed_at_us for event in results]
    return [max(asked[n : n + 2]) < min(answered[n : n + 2]) for n in range(0, len(results), 2)]


def saved_us(log: list[Event]) -> list[int]:
    """Per turn: the time that PROCESSING_COMPLETE says was saved."""
    return [event.saved_us for event in log if isinstance(event, ProcessingComplete)]


def saved_by_the_services(log: list[Event]) -> list[int]:
    """Per turn: what both services took, one after the other, less what the turn took."""
    took = [event.elapsed_us for event in log if isinstance(event, IntentResolved | RagAnswered)]
    turns = [event.elapsed_us for event in log if isinstance(event, ProcessingComplete)]
    return [max(0, a + b - turn) for a, b, turn in zip(took[::2], took[1::2], turns, strict=True)]
