"""Walks through the seven steps of the STT EVENT HANDLER in docs/target-flow.md, one test for each."""

import pytest

from events.derived import EventRejected, ProcessingComplete, StateChanged, TurnStarted
from events.inputs import IntentResolved, RagAnswered, SttFinal, SttPartial
from orchestrator.session.commands import (
    AnswerQuestion,
    CancelTimer,
    ClassifyIntent,
    ClearText,
    SetMicrophone,
    Speak,
    StartTimer,
)
from orchestrator.testing.conversation import given


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u2003"])
def test_step_1_an_empty_final_opens_no_turn(converse, text: str) -> None:
    """Validate: not empty."""
    call = converse("LISTENING").says(text)
    assert call.state.phase == "LISTENING"
    assert [event.reason for event in call.last if isinstance(event, EventRejected)] == ["empty text"]


def test_step_1_a_partial_opens_no_turn(converse) -> None:
    """Validate: only a final counts; a partial is the text buffer."""
    call = converse("LISTENING")
    for text in ("he", "hell", "hello"):
        call.input(SttPartial, text=text)
    assert (call.state.phase, call.state.turn, call.state.partial_text) == ("LISTENING", 0, "hello")
    assert call.says("hello").state.partial_text == ""


@pytest.mark.parametrize("phase", ["NEW", "IDLE", "ENDED"])
def test_step_2_a_final_counts_in_listening_and_not_before_or_after_the_conversation(converse, phase: str) -> None:
    """Check the state: outside a running conversation an utterance is rejected."""
    call = converse(phase)
    turns = call.state.turn
    assert call.says("hello").state.turn == turns
    assert call.state.phase == phase
    assert isinstance(call.last[-1], EventRejected)


def test_step_3_listening_becomes_thinking(converse) -> None:
    """The transition: a turn starts, the microphone is gated."""
    call = converse("LISTENING").says("  hello ")
    started, changed, *_ = call.last[1:]
    assert isinstance(started, TurnStarted)
    assert (started.text, started.via, started.turn) == ("hello", "speech", 1)
    assert isinstance(changed, StateChanged)
    assert (changed.from_phase, changed.to_phase, changed.reason) == ("LISTENING", "THINKING", "")
    assert call.commands[0] == SetMicrophone("gated")
    assert call.state.phase == "THINKING"


def test_step_4_intent_and_answer_start_in_parallel(converse) -> None:
    """Both are asked in the step that accepts the utterance, each with its deadline."""
    call = converse("LISTENING").at(2_000)
    utterance = SttFinal(session_id=call.session_id, at_us=call.now_us, text="hello", via="text")
    given(call.log).when(utterance).then(
        TurnStarted,
        StateChanged,
        SetMicrophone("gated"),
        ClassifyIntent(speculation=0, text="hello"),
        AnswerQuestion(conversation_to=call.state.version, speculation=0, text="hello"),
        StartTimer(due_at_us=3_000_000, timer="intent_deadline"),
        StartTimer(due_at_us=6_000_000, timer="answer_deadline"),
    )


@pytest.mark.parametrize("order", [(IntentResolved, RagAnswered), (RagAnswered, IntentResolved)])
def test_step_5_both_results_are_awaited(converse, order: tuple) -> None:
    """The first result changes nothing that can be seen; the later one completes the processing."""
    said = {
        IntentResolved: {"intent": "greeting", "elapsed_us": 200_000},
        RagAnswered: {"answer": "Hi!", "elapsed_us": 300_000},
    }
    call = converse("THINKING").after(200).input(order[0], **said[order[0]])
    assert call.state.phase == "THINKING"
    assert all(isinstance(command, CancelTimer) for command in call.commands)
    call.after(100).input(order[1], **said[order[1]])
    (complete,) = [event for event in call.last if isinstance(event, ProcessingComplete)]
    assert (complete.answer, complete.intent, complete.fallback) == ("Hi!", "greeting", "")
    assert (complete.elapsed_us, complete.saved_us) == (300_000, 200_000)


def test_step_6_thinking_becomes_speaking(converse) -> None:
    """The transition: the microphone stays gated, and the first chunk of speech has a deadline. It
    is two seconds later without a media connection, which may follow.
    """
    call = converse("THINKING").at(2_000).answers("Hi! How can I help?")
    assert call.state.phase == "SPEAKING"
    assert [event.reason for event in call.last if isinstance(event, StateChanged)] == [""]
    assert call.commands[-3:] == [
        SetMicrophone("gated"),
        Speak(ends="", from_ms=0, playback_id="answer-1", text="Hi! How can I help?"),
        StartTimer(due_at_us=7_000_000, timer="tts_deadline"),
    ]


def test_step_7_the_result_is_returned_and_the_agent_listens_again(converse) -> None:
    """The caller gets the answer spoken; when it was heard, the circle closes."""
    call = converse("THINKING").answers("Hi! How can I help?").speaks(chunks=10).after(2_000).played()
    assert call.state.phase == "LISTENING"
    assert call.commands[-2:] == [SetMicrophone("open"), ClearText()]
    assert call.golden[-4:] == [
        "[auto_session_12345] Processing complete in 0ms",
        "[auto_session_12345] 🔴 SPEAKING",
        "[auto_session_12345] TTS stream | chunks=10",
        "[auto_session_12345] 🔵 LISTENING (playback_done)",
    ]
    assert call.says("and another thing").state.turn == 2
