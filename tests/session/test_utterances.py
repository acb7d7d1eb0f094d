"""Shows which finals count as words of the user's: not empty ones, and not the same words by a second way."""

import pytest
from glance import arms, cancels, done, refused, the, timers

from events.derived import TurnEnded, TurnStarted, UserInterrupted
from events.inputs import HandlerAttached, SpeechStarted, SpeechStopped, SttFinal, SttPartial
from orchestrator.session.commands import ResumePlayback, Speak
from orchestrator.session.state import Utterance

TWICE = "another producer has said these words already"


def also_says(call, text: str, producer: str = "browser-stt", via: str = "speech"):
    """The same microphone is heard by a second recogniser."""
    return call.input(SttFinal, text=text, producer=producer, producer_seq=call.state.inputs, via=via)


def waiting(call):
    """The user has stopped, and the final is waited for."""
    return call.input(SpeechStopped).fires("endpoint")


@pytest.mark.parametrize("text", ["hello", "Hello!", " HELLO… "])
@pytest.mark.parametrize("phase", ["LISTENING", "THINKING", "SPEAKING", "INTERRUPT"])
def test_the_same_words_by_another_way_count_once(converse, phase: str, text: str) -> None:
    """However they are written, and wherever the conversation has got to meanwhile."""
    call = converse("LISTENING").says("hello")
    for go_on in {
        "LISTENING": [lambda: call.answers("Hi!"), lambda: call.speaks(), lambda: call.played()],
        "THINKING": [],
        "SPEAKING": [lambda: call.answers("Hi!")],
        "INTERRUPT": [lambda: call.answers("Hi!"), lambda: call.interrupts()],
    }[phase]:
        go_on()
    assert call.state.phase == phase
    also_says(call, text)
    assert (call.state.phase, call.state.turn, call.state.held_text) == (phase, 1, "")
    assert refused(call) == TWICE
    assert done(call) == []


def test_the_same_words_by_the_same_way_are_said_twice(converse) -> None:
    """Somebody who says it again means it."""
    call = converse("SPEAKING").says("hello")
    assert the(call, UserInterrupted).text == "hello"


def test_other_words_by_another_way_are_words(converse) -> None:
    """The second recogniser understood something else; what is right is for the turn to join."""
    call = also_says(converse("LISTENING").says("hello"), "hello there")
    assert the(call, TurnEnded).outcome == "merged"


@pytest.mark.parametrize("phase", ["LISTENING", "THINKING", "SPEAKING", "INTERRUPT"])
@pytest.mark.parametrize(("first", "then"), [("speech", "text"), ("text", "speech"), ("text", "text")])
def test_words_that_are_typed_are_no_repetition(converse, phase: str, first: str, then: str) -> None:
    """Only speech is heard by two recognisers: what is typed before or after it is meant."""
    call = converse("LISTENING").says("hello", via=first)
    for go_on in {
        "LISTENING": [lambda: call.answers("Hi!"), lambda: call.speaks(), lambda: call.played()],
        "THINKING": [],
        "SPEAKING": [lambda: call.answers("Hi!")],
        "INTERRUPT": [lambda: call.answers("Hi!"), lambda: call.interrupts()],
    }[phase]:
        go_on()
    also_says(call.after(100), "hello", producer="gateway", via=then)
    if call.state.phase == "INTERRUPT":
        call.fires("interrupt_pause")
    assert (call.state.turn, call.state.task.text, call.state.task.via) == (2, "hello", then)


@pytest.mark.parametrize(
    ("heard", "typed"),
    [("C#", "C++"), ("3-2", "3+2"), ("पचीस", "पचास"), ("เสือ", "เสื้อ"), ("👎", "👍"), ("3 5", "3.5"), ("买", "卖")],
)
@pytest.mark.parametrize("via", ["speech", "text"])
def test_other_words_are_never_a_repetition(converse, heard: str, typed: str, via: str) -> None:
    """A correction within three seconds is answered, in any script, by whatever way it comes."""
    call = also_says(converse("LISTENING").says(heard).after(500), typed, via=via)
    assert refused(call) == ""
    assert call.state.turn == 2
    assert call.state.task.text == (f"{heard} {typed}" if via == "speech" else typed)


def test_a_late_recogniser_repeats_what_was_said_before_something_was_typed(converse) -> None:
    """What is typed is not the last utterance."""
    call = converse("LISTENING").says("hello").after(200)
    also_says(call, "in English please", producer="gateway", via="text")
    assert refused(also_says(call.after(200), "Hello.")) == TWICE
    assert call.state.task.text == "in English please"


@pytest.mark.parametrize(("after_us", "counts"), [(2_999_999, False), (3_000_000, False), (3_000_001, True)])
def test_a_repetition_comes_within_the_time_that_a_final_may_take(converse, after_us: int, counts: bool) -> None:
    """Later the user has said the same words again."""
    call = converse("LISTENING").says("hello").answers("Hi!").speaks().played()
    call.now_us += after_us
    assert (also_says(call, "hello").state.turn == 2) is counts
    assert bool(refused(call)) is not counts


def test_what_was_repeated_last_is_what_counts(converse) -> None:
    """A repetition does not begin the time anew, nor does it change who said so."""
    call = also_says(converse("LISTENING").says("hello").after(2_000), "hello")
    assert call.state.utterance == Utterance("hello", "test", 0, "hello", "test", 0)
    call.after(2_000).answers("Hi!").speaks().played()
    assert also_says(call, "hello").state.turn == 2
    assert call.state.utterance == Utterance("hello", "browser-stt", 4_000_000, "hello", "browser-stt", 4_000_000)


def test_each_of_two_recognisers_may_be_the_first(converse) -> None:
    """Utterance by utterance."""
    call = converse("LISTENING").says("one")
    assert refused(also_says(call, "one")) == TWICE
    call.answers("1").speaks().played()
    assert also_says(call, "two").state.turn == 2
    assert refused(call.says("two")) == TWICE


def test_words_that_interrupt_are_not_held_twice(converse) -> None:
    """They came by two ways while the agent was speaking."""
    call = also_says(converse("SPEAKING").says("stop"), "stop")
    assert refused(call) == TWICE
    assert call.state.held_text == "stop"


def test_a_new_owner_does_not_know_who_said_what(converse) -> None:
    """The producers of the old one are gone."""
    call = converse("LISTENING").says("hello").resumes("incarnation-2")
    assert call.state.utterance is None
    assert the(also_says(call, "hello"), TurnEnded).outcome == "merged"


def test_words_before_a_client_is_connected_are_nobodys(converse) -> None:
    """They are not what a later final repeats."""
    call = converse("IDLE").says("hello")
    assert call.state.utterance is None
    assert also_says(call.connects(), "hello").state.turn == 1


def test_the_final_that_was_waited_for_may_be_the_repetition(converse) -> None:
    """Another recogniser was faster than the end of the utterance: nothing more is waited for, nothing said twice."""
    call = converse("LISTENING").input(SpeechStarted).after(300).input(SttPartial, text="hello")
    also_says(call, "hello").after(50).input(SttPartial, text="Hello")
    waiting(call.input(SpeechStopped).answers("Hi!")).says("hello")
    assert (call.state.phase, call.state.turn, call.state.partial_text) == ("SPEAKING", 1, "")
    assert done(call)[:2] == [cancels("stt_deadline"), cancels("floor_deadline")]
    assert refused(call) == ""
    assert Speak(ends="", from_ms=0, playback_id="answer-1", text="Hi!") in call.commands


def test_a_repetition_is_not_what_other_words_wait_for(converse) -> None:
    """The second recogniser is late with the last utterance, and the user has gone on: those words are waited for."""
    call = converse("THINKING").input(SpeechStarted).input(SttPartial, text="and tomorrow?")
    also_says(waiting(call), "hello")
    assert refused(call) == TWICE
    assert "stt_deadline" in timers(call)
    assert call.state.partial_text == "and tomorrow?"
    assert call.fires("stt_deadline").state.task.text == "hello and tomorrow?"


def test_the_repetition_ends_the_wait_while_listening_too(converse) -> None:
    """The agent was so brief that it listens already; from now on the user may be away."""
    call = converse("LISTENING", away={"text": "Are you there?"}).input(HandlerAttached, handler_id="fastrtc_1")
    waiting(also_says(call, "hello").answers("").speaks().played().input(SpeechStarted)).says("hello")
    assert done(call) == [cancels("stt_deadline"), cancels("away"), arms("away", call.now_us // 1000 + 15_000)]
    assert refused(call) == ""


def test_the_repetition_that_was_waited_for_lets_the_agent_go_on(converse) -> None:
    """It has been answered already, and playback paused for it; any other leaves the pause for the words to come."""
    call = converse("LISTENING").input(HandlerAttached, handler_id="fastrtc_1").input(SpeechStarted)
    also_says(call, "hello there").answers("Hi! How can I help you today?").speaks(chunks=10)
    call.input(SpeechStarted)
    assert refused(also_says(call, "hello there", producer="a third")) == TWICE
    assert refused(also_says(call.input(SpeechStopped), "hello there", producer="a third")) == TWICE
    assert call.state.playback.is_paused
    waiting(call).says("hello there")
    assert [command for command in call.commands if isinstance(command, ResumePlayback)]
    assert timers(call) == {"playback_deadline"}


@pytest.mark.parametrize("phase", ["LISTENING", "THINKING", "SPEAKING", "INTERRUPT"])
def test_an_empty_final_is_accepted_where_one_is_waited_for(converse, phase: str) -> None:
    """It says that nothing was understood; another one is rejected."""
    call = waiting(converse(phase).input(SpeechStarted)).says(" ")
    assert refused(call) == ""
    assert "stt_deadline" not in timers(call)
    assert refused(call.says(" ")) == "empty text"


@pytest.mark.parametrize("phase", ["LISTENING", "THINKING", "SPEAKING", "INTERRUPT"])
def test_words_end_the_wait_for_them(converse, phase: str) -> None:
    """Whichever way they came."""
    call = waiting(converse(phase).input(SpeechStarted)).says("stop it", via="text")
    assert cancels("stt_deadline") in done(call)
    assert "stt_deadline" not in timers(call)


def test_blanks_around_the_words_are_not_said(converse) -> None:
    """They are stripped wherever words go."""
    assert the(converse("LISTENING").says(" hello\n"), TurnStarted).text == "hello"
    assert the(converse("SPEAKING").says(" stop it "), UserInterrupted).text == "stop it"
    assert converse("INTERRUPT").says(" stop ").state.held_text == "stop"
