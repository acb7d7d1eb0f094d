"""Shows how the end of an utterance is found, and what happens to words that come at another time."""

import pytest

from events.derived import TurnEnded, TurnStarted
from events.inputs import BargeIn, SpeechStarted, SpeechStopped, SttPartial
from orchestrator.session.commands import CancelTimer, FinishUtterance, StartTimer

LIVE = ["LISTENING", "THINKING", "SPEAKING", "INTERRUPT"]


@pytest.mark.parametrize("phase", LIVE)
def test_endpointing_waits_then_finishes_the_utterance(converse, phase: str) -> None:
    """A stop of speech is the end of the utterance when nothing follows for a while; the final then decides."""
    call = converse(phase, endpointing={"complete_ms": 250, "incomplete_ms": 250})
    call.input(SpeechStopped, duration_ms=900)
    assert call.commands == [StartTimer(due_at_us=call.now_us + 250_000, timer="endpoint")]
    call.fires("endpoint")
    assert call.commands == [FinishUtterance(), StartTimer(due_at_us=call.now_us + 3_000_000, timer="stt_deadline")]
    assert call.state.phase == phase


@pytest.mark.parametrize("phase", ["LISTENING", "THINKING"])
def test_words_that_were_understood_are_not_lost_with_the_final(converse, phase: str) -> None:
    """Speech-to-text that never finishes: after a while the last partial counts as the utterance."""
    call = converse(phase, thinking={"more_words": "supersede"})
    call.input(SpeechStarted).input(SttPartial, text="when are you open").input(SpeechStopped)
    turn = call.state.turn
    call.fires("endpoint").fires("stt_deadline")
    assert call.state.phase == "THINKING"
    assert (call.state.turn, call.state.task.text) == (turn + 1, "when are you open")


def test_an_utterance_of_which_nothing_was_understood_changes_nothing(converse) -> None:
    """No partial, no final: the agent goes on listening."""
    call = converse("LISTENING").input(SpeechStarted).input(SpeechStopped).fires("endpoint").fires("stt_deadline")
    assert call.commands == []
    assert call.state.phase == "LISTENING"


def test_an_empty_final_that_was_waited_for_ends_the_wait(converse) -> None:
    """A cough: speech-to-text says that there were no words, and no deadline remains."""
    call = converse("LISTENING").input(SpeechStarted).input(SpeechStopped).fires("endpoint").says("")
    assert call.state.timer("stt_deadline") is None
    assert call.state.phase == "LISTENING"


@pytest.mark.parametrize("phase", LIVE)
def test_going_on_speaking_withdraws_the_endpoint(converse, phase: str) -> None:
    """A pause for breath does not end the utterance."""
    call = converse(phase).input(SpeechStopped, duration_ms=900)
    armed = call.outstanding("endpoint").command_id
    call.after(100).input(SpeechStarted)
    assert call.commands[0] == CancelTimer(command_id=armed, timer="endpoint")
    assert call.state.timer("endpoint") is None


def test_a_second_stop_arms_the_endpoint_anew(converse) -> None:
    """The last stop counts, and one timer is enough."""
    call = converse("LISTENING").input(SpeechStopped).after(100).input(SpeechStopped)
    assert [type(command) for command in call.commands] == [CancelTimer, StartTimer]
    assert len(call.state.outstanding("StartTimer")) == 1


def test_typed_text_does_not_wait_for_the_endpoint(converse) -> None:
    """A turn that starts withdraws it."""
    call = converse("LISTENING").input(SpeechStopped).says("hello", via="text")
    assert call.state.timer("endpoint") is None
    assert [event.via for event in call.last if isinstance(event, TurnStarted)] == ["text"]


def test_before_a_client_is_connected_speech_is_nobodys(converse) -> None:
    """IDLE takes note and does nothing."""
    call = converse("IDLE")
    for heard in (SpeechStarted, SpeechStopped):
        assert call.input(heard).commands == []


@pytest.mark.parametrize("phase", ["IDLE", "LISTENING", "INTERRUPT"])
def test_a_barge_in_into_silence_is_stale(converse, phase: str) -> None:
    """There is nothing to interrupt."""
    assert converse(phase).input(BargeIn).last[-1].reason == "stale: nothing is playing"


def test_words_while_thinking_start_the_turn_over(converse) -> None:
    """The user corrected themselves: the first turn is superseded, its task cancelled, its answer stale."""
    call = converse("THINKING", thinking={"more_words": "supersede"}).after(100)
    first = call.outstanding("AnswerQuestion").command_id
    call.says("no, wait")
    ended, started = (e for e in call.last if isinstance(e, TurnEnded | TurnStarted))
    assert (ended.outcome, ended.turn) == ("superseded", 1)
    assert (started.text, started.turn) == ("no, wait", 2)
    assert call.golden[-3:] == [
        "[auto_session_12345] Cancelling current task",
        "[auto_session_12345] STT FINAL | text=no, wait",
        "[auto_session_12345] 🟡 THINKING",
    ]
    assert first not in call.state.pending
    assert call.answers("Yes?").golden[-1] == "[auto_session_12345] 🔴 SPEAKING"


def test_an_empty_final_while_thinking_supersedes_nothing(converse) -> None:
    """A cough is no correction."""
    call = converse("THINKING").says(" ")
    assert (call.state.phase, call.state.turn) == ("THINKING", 1)
    assert call.last[-1].reason == "empty text"


def test_words_during_an_interrupt_are_held_until_listening(converse) -> None:
    """They open the next turn as soon as the pause is over."""
    call = converse("INTERRUPT").says("stop")
    assert (call.state.phase, call.state.held_text) == ("INTERRUPT", "stop")
    assert not call.commands
    call.fires("interrupt_pause")
    assert call.state.phase == "THINKING"
    assert call.golden[-3:] == [
        "[auto_session_12345] 🔵 LISTENING",
        "[auto_session_12345] STT FINAL | text=stop  (new user input)",
        "[auto_session_12345] 🟡 THINKING",
    ]


def test_two_held_utterances_are_joined(converse) -> None:
    """Neither is lost; how the last one came counts."""
    call = converse("INTERRUPT").says(" stop ").says("").says("please", via="text").fires("interrupt_pause")
    (started,) = (event for event in call.last if isinstance(event, TurnStarted))
    assert (started.text, started.via) == ("stop please", "text")
    assert (call.state.held_text, call.state.held_via) == ("", "")


def test_without_held_words_the_agent_listens_after_an_interrupt(converse) -> None:
    """The user took the floor and has not finished yet."""
    call = converse("INTERRUPT").fires("interrupt_pause")
    assert call.state.phase == "LISTENING"
    assert call.golden[-1] == "[auto_session_12345] 🔵 LISTENING"
