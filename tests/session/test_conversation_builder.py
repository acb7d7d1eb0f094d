"""Shows that the builder of conversations is honest: it notices broken laws and says what went wrong in words."""

import pytest

from events.derived import AnswerEnded, EventRejected, StateChanged, TurnEnded, TurnStarted
from events.inputs import PlaybackDone, RagAnswered, SttFinal
from events.journal import ToolCalled
from orchestrator.session.commands import CancelTimer, ClearText, SetMicrophone, Speak
from orchestrator.session.state import State
from orchestrator.testing.conversation import BrokenLawError, Conversation, given


def test_a_state_that_is_not_the_fold_of_the_log_is_noticed() -> None:
    """At the next step."""
    call = Conversation.listening()
    call.state.epoch = 7
    with pytest.raises(BrokenLawError, match="the state is not the fold of the log"):
        call.says("hello")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("state", State(), "fold of the whole log is not the state"), ("steps", [], "fold of the whole log")],
)
def test_a_conversation_that_was_tampered_with_is_noticed(field: str, value: object, words: str) -> None:
    """By the check at the end."""
    call = Conversation.listening()
    setattr(call, field, value)
    with pytest.raises(BrokenLawError, match=words):
        call.check()


def test_a_recording_that_replays_differently_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of one reducer must say the same."""
    call = Conversation.listening()
    monkeypatch.setattr("orchestrator.session.listening.spoken_words", lambda step: "something else")
    call.check()
    call.says("hello")
    monkeypatch.undo()
    with pytest.raises(BrokenLawError, match="the replay of its own recording differs"):
        call.check()


def test_what_is_not_outstanding_is_named_with_what_is() -> None:
    """A typing error in a test should not take an hour."""
    call = Conversation.in_phase("IDLE")
    with pytest.raises(LookupError, match=r"no StartTimer endpoint is outstanding in IDLE, but StartTimer reconnect"):
        call.fires("endpoint")
    with pytest.raises(LookupError, match=r"no Speak  is outstanding in LISTENING, but nothing"):
        call.connects().outstanding("Speak")
    with pytest.raises(LookupError, match="nothing that RagAnswered answers is outstanding in LISTENING"):
        call.input(RagAnswered, answer="Hi!")


def test_one_decision_can_be_looked_at_by_itself() -> None:
    """given(log).when(event).then(what it leads to)."""
    call = Conversation.in_phase("SPEAKING").speaks()
    speak = call.outstanding("Speak")
    done = PlaybackDone(
        command_id=speak.command_id, playback_id=speak.target, confirmed_by="client", session_id=call.session_id
    )
    given(call.log).when(done).then(
        CancelTimer, AnswerEnded, TurnEnded, StateChanged, SetMicrophone("open"), ClearText()
    )


def test_a_decision_that_is_not_the_expected_one_is_shown() -> None:
    """Whole commands, events by name."""
    decision = given().when(SttFinal(text="hello"))
    decision.then(EventRejected)
    with pytest.raises(AssertionError, match=r"expected \['TurnStarted', .*gated.*\], got \['EventRejected'\]"):
        decision.then(TurnStarted, SetMicrophone("gated"))
    with pytest.raises(AssertionError, match=r"expected \['Speak'\], got \['EventRejected'\]"):
        decision.then(Speak)


def test_tool_calls_are_numbered_by_tool() -> None:
    """As an agent's are: no two calls of a session have the same id."""
    call = Conversation.in_phase("THINKING").calls("book").calls("search").returns().calls("book")
    assert [event.call_id for event in call.log if isinstance(event, ToolCalled)] == ["book/1", "search/1", "book/2"]
