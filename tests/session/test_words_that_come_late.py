"""A recogniser that needs a second: the words of an utterance come while the user says the next one."""

from events.inputs import SpeechStarted, SpeechStopped, SttPartial
from orchestrator.session.commands import FinishUtterance
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation


def gone_on(*, has_stopped: bool) -> Conversation:
    """The user goes on after the end of their utterance; then come its words. The media layer reports the speech after
    them again (media/utterance.py).
    """
    call = Conversation.listening(policy=Policy()).at(1_000).input(SpeechStarted)
    call.after(500).input(SttPartial, text="a table").after(500).input(SpeechStopped).fires("endpoint")
    call.after(20).input(SpeechStarted)
    if has_stopped:
        call.after(200).input(SpeechStopped)
    call.after(1_000).says("a table").input(SpeechStopped).input(SpeechStarted)
    return call.input(SpeechStopped) if has_stopped else call


def test_the_answer_waits_for_a_user_who_goes_on() -> None:
    """Both utterances are one turn."""
    call = gone_on(has_stopped=False).after(100).answers("For how many?")
    assert call.state.phase == "THINKING"
    call.after(300).input(SpeechStopped).fires("endpoint").after(900).says("for two")
    assert call.state.task is not None
    assert (call.state.phase, call.state.task.text) == ("THINKING", "a table for two")
    call.check()


def test_the_time_of_the_recogniser_is_no_pause_of_the_user() -> None:
    """The wait for the end of the next utterances would grow with it."""
    for has_stopped in (False, True):
        assert gone_on(has_stopped=has_stopped).state.pause_ms < 500


def test_the_words_of_the_next_utterance_are_asked_for() -> None:
    """Nobody else asks: the timer that would ends with the words of the one before."""
    call = gone_on(has_stopped=True).fires("endpoint")
    assert FinishUtterance() in call.commands
    call.check()
