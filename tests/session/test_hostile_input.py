"""Shows that input from a broken or hostile producer harms nobody: it is bounded, recorded and rejected."""

import pytest

from events.codec import decode, encode
from events.derived import AnswerEnded
from events.inputs import (
    IntentResolved,
    PlaybackDone,
    PlaybackStarted,
    RagAnswered,
    ServiceFailed,
    SessionOpened,
    SpokenWord,
    SttFinal,
    SttPartial,
    TimerFired,
    TtsChunkReady,
)
from orchestrator.testing.conversation import Conversation

LONG = "x" * 200
DAY_MS = 24 * 3600 * 1000


@pytest.mark.parametrize(
    "policy",
    [
        {"deadlines": {"answer_ms": "soon"}},
        {"deadlines": {"answer_ms": -1}},
        {"deadlines": {"answer_ms": 10**30}},
        {"deadlines": {"answer_ms": 1.5}},
        {"surprise": 1},
        {"fallback": {"answer": "x" * 8_001}},
        {"filler": {"text": None}},
    ],
)
def test_a_policy_that_cannot_be_read_opens_no_session(policy: dict) -> None:
    """Recorded and rejected; a good one may still follow."""
    call = Conversation().input(SessionOpened, policy=policy)
    assert call.last[-1].reason == "its policy cannot be read"
    assert call.state.phase == "NEW"
    assert call.opens().connects().state.phase == "LISTENING"
    call.check()


def test_the_longest_names_leave_room_for_what_is_made_of_them() -> None:
    """Ids of commands and events contain the session's; a whole call with the longest of each can be read back."""
    call = Conversation.listening(LONG, incarnation=LONG, producer=LONG).says("hello").answers("Hi!")
    call.speaks().interrupts().fires("interrupt_pause").resumes("y" * 200).closes()
    assert [decode(encode(event)) for event in call.log] == call.log
    call.check()


def test_longer_words_than_the_answer_has_do_not_make_a_longer_event(converse) -> None:
    """A synthesiser may say anything about where words begin; what was heard is cut to what an event may hold."""
    words = tuple(SpokenWord(at_ms=at_ms, text="w" * 500) for at_ms in range(0, 400, 20))
    call = converse("SPEAKING").input(TtsChunkReady, index=0, duration_ms=400, words=words)
    call.input(PlaybackStarted).after(400).interrupts()
    (ended,) = (event for event in call.log if isinstance(event, AnswerEnded))
    assert len(ended.heard_text) == 8_000
    call.check()


def test_the_longest_texts_can_be_held_and_joined(converse) -> None:
    """What is held is as long as one utterance may be, so that it can open a turn; the rest is cut."""
    call = converse("INTERRUPT").says("a" * 8_000).says("b" * 8_000).fires("interrupt_pause")
    assert call.state.task.text == "a" * 8_000
    call = converse("INTERRUPT").says("a" * 7_999).says("bc").fires("interrupt_pause")
    assert call.state.task.text == "a" * 7_999


def test_the_longest_audio_stays_countable(converse) -> None:
    """A chunk claims a day at most, so no sum leaves the numbers that every language can read."""
    call = converse("SPEAKING")
    for index in range(3):
        call.input(TtsChunkReady, index=index, duration_ms=DAY_MS)
    call.input(PlaybackDone, confirmed_by="client", position_ms=DAY_MS)
    assert call.state.phase == "LISTENING"
    with pytest.raises(ValueError, match="less than or equal to 86400000"):
        call.input(TtsChunkReady, command_id="c", playback_id="p", index=0, duration_ms=DAY_MS + 1)


def test_a_result_of_the_wrong_kind_answers_nothing(converse) -> None:
    """An intent cannot answer the question, no result can stand for a timer: the command stays outstanding."""
    call = converse("THINKING")
    question, timer = call.outstanding("AnswerQuestion").command_id, call.outstanding("answer_deadline").command_id
    outstanding = call.state.pending
    call.input(IntentResolved, command_id=question, intent="x")
    call.input(TimerFired, command_id=question, target="answer_deadline")
    call.input(RagAnswered, command_id=timer, answer="x")
    call.input(ServiceFailed, command_id=timer, error="x")
    assert {step.events[-1].reason for step in call.steps[-4:]} == {"does not answer the command it names"}
    assert call.state.pending == outstanding
    assert call.fires("answer_deadline").state.phase == "SPEAKING"


@pytest.mark.parametrize("kind", [RagAnswered, ServiceFailed, TimerFired])
def test_the_pause_of_an_interrupt_cannot_be_taken_away(converse, kind: type) -> None:
    """A forged result must not leave a session in INTERRUPT for ever."""
    call = converse("INTERRUPT")
    said = {RagAnswered: {"answer": "x"}, ServiceFailed: {"error": "x"}, TimerFired: {"target": "endpoint"}}[kind]
    call.input(kind, command_id=call.outstanding("interrupt_pause").command_id, **said)
    assert call.fires("interrupt_pause").state.phase == "LISTENING"


@pytest.mark.parametrize("target", ["", "intent_deadline", "endpoint", "reconnect", "interrupt_pause"])
def test_a_timer_that_fires_under_another_name_is_rejected(converse, target: str) -> None:
    """Else it would use up a deadline and decide something else."""
    call = converse("THINKING")
    call.input(TimerFired, command_id=call.outstanding("answer_deadline").command_id, target=target)
    assert call.last[-1].reason == "does not answer the command it names"
    assert call.state.timer("answer_deadline") is not None


def test_a_playback_event_about_another_playback_is_rejected(converse) -> None:
    """The end of something else must not end the answer."""
    call = converse("SPEAKING")
    speak = call.outstanding("Speak").command_id
    for kind, fields in ((PlaybackDone, {"confirmed_by": "client"}), (PlaybackStarted, {})):
        call.input(kind, command_id=speak, playback_id="filler-1", **fields)
        assert call.last[-1].reason == "does not answer the command it names"
    assert call.state.phase == "SPEAKING"


def test_a_rejected_final_leaves_the_text_buffer_alone(converse) -> None:
    """An illegal input changes nothing but bookkeeping."""
    call = converse("IDLE").input(SttPartial, text="hel").says("hello")
    assert call.state.partial_text == "hel"


def test_what_a_producer_says_about_version_turn_or_hash_is_overwritten(converse) -> None:
    """Only the core counts."""
    call = converse("LISTENING").put(
        SttFinal(
            cause="c",
            epoch=9,
            event_id="e",
            session_id="auto_session_12345",
            state_hash="h",
            text="a",
            turn=9,
            version=9,
        )
    )
    logged = call.last[0]
    assert (logged.cause, logged.epoch, logged.state_hash, logged.turn) == ("", 0, "", 0)
    assert logged.version == call.state.version - len(call.last) + 1
