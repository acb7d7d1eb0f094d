"""Shows what a speech-to-text that breaks leads to: the user is asked again; in the end the session ends politely."""

import pytest
from glance import arms, done, timers

from events.derived import StateChanged
from events.inputs import HandlerAttached, HearingFailed, SpeechStarted, SpeechStopped, SttPartial
from orchestrator.session.commands import Speak, StartTimer

SORRY = "Sorry, I did not hear that. Could you say it again?"
GOODBYE = "I am sorry, I cannot help you at the moment. Please try again later. Goodbye."


def in_a_call(converse, phase: str = "LISTENING", **policy):
    return converse(phase, **policy).input(HandlerAttached, handler_id="fastrtc_1")


def deaf(call, *, is_utterance_lost: bool = True):
    return call.input(HearingFailed, error="broke", is_utterance_lost=is_utterance_lost)


def spoken(call) -> list[tuple[str, str]]:
    return [(command.text, command.ends) for command in call.commands if isinstance(command, Speak)]


def utters(call):
    """Speech, its end, and the request for the final."""
    return call.input(SpeechStarted).after(800).input(SpeechStopped, duration_ms=500).fires("endpoint")


def test_an_utterance_that_was_lost_is_asked_for_again(converse) -> None:
    """The recogniser died before its final: an empty one is owed, and the event says why."""
    call = deaf(utters(in_a_call(converse)).says(""))
    assert spoken(call) == [(SORRY, "")]
    assert [event.reason for event in call.last if isinstance(event, StateChanged)] == ["unheard"]
    assert call.speaks().played().state.phase == "LISTENING"


def test_one_that_hangs_is_told_of_when_it_is_given_up(converse) -> None:
    """The deadline of the final has passed; then the media layer gives the recogniser up."""
    call = utters(in_a_call(converse)).fires("stt_deadline")
    assert call.state.phase == "LISTENING"
    assert spoken(deaf(call)) == [(SORRY, "")]


def test_nobody_is_told_where_nothing_was_said(converse) -> None:
    """A recogniser that is replaced between two utterances."""
    call = deaf(in_a_call(converse), is_utterance_lost=False)
    assert done(call) == []
    assert call.state.hearing_failures == 0


def test_nobody_who_is_speaking_is_spoken_over(converse) -> None:
    """They are told when they have finished, and nothing of it was understood."""
    call = deaf(in_a_call(converse).input(SpeechStarted))
    assert done(call) == []
    call.after(800).input(SpeechStopped, duration_ms=500).fires("endpoint").fires("stt_deadline")
    assert spoken(call) == [(SORRY, "")]


@pytest.mark.parametrize(
    "goes_on", [{SpeechStarted: {}}, {SpeechStopped: {"duration_ms": 500}}], ids=["speech", "its end"]
)
def test_nobody_who_goes_on_speaking_is_told_that_the_words_before_are_missing(converse, goes_on) -> None:
    """The deadline of a final passes while the next utterance is under way: the agent waits for that one."""
    call = utters(deaf(in_a_call(converse)).speaks().played())
    for kind, fields in goes_on.items():
        call.input(kind, **fields)
    if call.state.timer("stt_deadline"):
        call.fires("stt_deadline")
    assert spoken(call) == []
    assert call.state.phase == "LISTENING"
    if call.state.user_is_speaking:
        call.after(800).input(SpeechStopped, duration_ms=500)
    call.fires("endpoint").fires("stt_deadline")
    assert spoken(call) == [(SORRY, "")]


def test_what_was_understood_is_answered_all_the_same(converse) -> None:
    """The partial is all there will be; nobody needs to repeat it."""
    call = deaf(in_a_call(converse).input(SpeechStarted).input(SttPartial, text="where are you"))
    call.after(800).input(SpeechStopped, duration_ms=500).fires("endpoint").fires("stt_deadline")
    assert (call.state.phase, call.state.task.text) == ("THINKING", "where are you")


@pytest.mark.parametrize("failures", [1, 3])
def test_a_session_that_stays_deaf_ends_politely(converse, failures: int) -> None:
    """After as many in a row as answers may fail."""
    call = in_a_call(converse, fallback={"failures": failures})
    for _ in range(failures - 1):
        assert spoken(deaf(call)) == [(SORRY, "")]
        call.speaks().played()
    assert spoken(deaf(call)) == [(GOODBYE, "too_many_failures")]
    assert call.speaks().played().state.phase == "ENDED"
    assert call.last[-1].reason == "too_many_failures"


@pytest.mark.parametrize("via", ["speech", "text"])
def test_words_that_arrive_end_the_row(converse, via: str) -> None:
    """It works again, or the user types."""
    call = deaf(deaf(in_a_call(converse)).speaks().played())
    call.speaks().played().says("hello", via=via).answers("Hi!").speaks().played()
    assert spoken(deaf(call)) == [(SORRY, "")]


@pytest.mark.parametrize("policy", [{"unheard": ""}, {"unheard": "", "failures": 0}])
def test_a_policy_may_say_nothing(converse, policy) -> None:
    """The agent goes on listening."""
    assert done(deaf(in_a_call(converse, fallback=policy))) == []


@pytest.mark.parametrize("phase", ["THINKING", "SPEAKING", "INTERRUPT"])
def test_elsewhere_it_counts(converse, phase: str) -> None:
    """The agent does something else; the next failure in a row is told of."""
    call = deaf(in_a_call(converse, phase))
    assert (done(call), call.state.hearing_failures) == ([], 1)


def test_a_cough_that_a_working_recogniser_hears_is_nothing(converse) -> None:
    """Its final is empty, and nothing has failed."""
    call = utters(in_a_call(converse)).says("")
    assert done(call)[0].timer == "stt_deadline"
    assert call.state.phase == "LISTENING"
    assert timers(call) == set()
    assert arms("stt_deadline", 0) not in done(call)


def test_silence_is_measured_again_only_where_nothing_is_said(converse) -> None:
    """A missing final starts the wait for the user anew; an apology does not: the agent speaks."""
    call = utters(deaf(in_a_call(converse, away={"text": "Hello?"})).speaks().played())
    call.input(SpeechStopped, duration_ms=500).fires("stt_deadline")
    assert [command.timer for command in call.commands if isinstance(command, StartTimer)] == ["away"]
    call.fires("endpoint").fires("stt_deadline")
    assert spoken(call) == [(SORRY, "")]
    assert "away" not in timers(call)
