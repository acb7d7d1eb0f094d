"""Shows when an utterance counts as complete: by its words, by silence, by a watchdog, and who waits for its final."""

import pytest
from glance import arms, cancels, done, due_ms, refused, timers

from events.inputs import HandlerDetached, SpeechStarted, SpeechStopped, SttPartial
from orchestrator.session.commands import FinishUtterance, Speak

RULES = {"complete_ms": 200, "incomplete_ms": 1_000}
LIVE = ["LISTENING", "THINKING", "SPEAKING", "INTERRUPT"]


def speaking_user(converse, **rules):
    """A user who began to speak at 1,000 ms; their words come at 1,400 ms."""
    return converse("LISTENING", endpointing=RULES | rules).at(1_000).input(SpeechStarted).at(1_400)


def test_an_utterance_that_looks_unfinished_is_waited_for_longer(converse) -> None:
    """Words that nobody holds complete, or none at all."""
    call = speaking_user(converse).input(SttPartial, text="I would like").at(2_000).input(SpeechStopped)
    assert done(call) == [cancels("endpoint"), arms("endpoint", 3_000)]
    assert done(speaking_user(converse).at(2_000).input(SpeechStopped)) == [arms("endpoint", 3_000)]


def test_an_utterance_that_the_recogniser_holds_complete_is_waited_for_less(converse) -> None:
    """Until it takes that back."""
    call = speaking_user(converse).input(SttPartial, text="two teas", is_complete=True).at(2_000).input(SpeechStopped)
    assert done(call) == [cancels("endpoint"), arms("endpoint", 2_200)]
    call.at(2_100).input(SttPartial, text="two teas")
    assert done(call) == [cancels("endpoint"), arms("endpoint", 3_000)]


def test_an_utterance_that_ends_with_a_phrase_of_the_policy_is_complete(converse) -> None:
    """Word by word, however it is written."""
    call = speaking_user(converse, phrases=["over", "that's all"]).input(SttPartial, text="That's all!")
    assert due_ms(call.at(2_000).input(SpeechStopped), "endpoint") == 2_200
    call.at(2_050).input(SttPartial, text="that's all for mo")
    assert due_ms(call, "endpoint") == 3_000


@pytest.mark.parametrize(
    ("stable_ms", "words_at_ms", "due"),
    [
        *[(0, 1_400, 3_000), (500, 1_400, 2_200), (800, 1_400, 2_200), (801, 1_400, 2_201)],
        *[(500, 1_900, 2_400), (1_600, 1_400, 3_000), (1_599, 1_400, 2_999), (5_000, 1_400, 3_000)],
    ],
)
def test_words_that_have_not_changed_for_long_look_complete(
    converse, stable_ms: int, words_at_ms: int, due: int
) -> None:
    """Never before the wait for complete ones, never after the wait for incomplete ones; 0 says nothing."""
    call = speaking_user(converse, stable_ms=stable_ms).at(words_at_ms).input(SttPartial, text="I would like")
    assert due_ms(call.at(2_000).input(SpeechStopped), "endpoint") == due


def test_silence_without_words_is_never_stable(converse) -> None:
    """There is nothing that could be complete."""
    call = speaking_user(converse, stable_ms=100).at(2_000).input(SpeechStopped)
    assert due_ms(call, "endpoint") == 3_000


def test_the_same_words_again_are_stable_since_they_came_first(converse) -> None:
    """A recogniser that repeats itself does not make the user wait."""
    call = speaking_user(converse, stable_ms=1_000).input(SttPartial, text="I would like")
    call.at(1_700).input(SttPartial, text="I would like").at(2_000).input(SpeechStopped)
    assert due_ms(call, "endpoint") == 2_400


def test_words_that_come_in_the_silence_change_how_long_to_wait(converse) -> None:
    """Each partial is news, but a timer that is right is left alone."""
    call = speaking_user(converse, stable_ms=300).at(2_000).input(SpeechStopped)
    call.at(2_300).input(SttPartial, text="I would")
    assert done(call) == [cancels("endpoint"), arms("endpoint", 2_600)]
    assert done(call.at(2_400).input(SttPartial, text="I would")) == []
    assert done(call.at(2_500).input(SttPartial, text="I would like")) == [cancels("endpoint"), arms("endpoint", 2_800)]
    assert done(call.input(SttPartial, text="I would like tea", is_complete=True)) == [
        cancels("endpoint"),
        arms("endpoint", 2_500),
    ]


def test_words_that_come_after_they_were_waited_for_change_nothing(converse) -> None:
    """The final is on its way."""
    call = speaking_user(converse).at(2_000).input(SpeechStopped).fires("endpoint")
    assert done(call) == [FinishUtterance(), arms("stt_deadline", 6_000)]
    assert done(call.after(100).input(SttPartial, text="hello", is_complete=True)) == []
    assert timers(call) == {"stt_deadline"}


def test_words_before_anybody_was_heard_to_speak_are_watched_over_by_their_recogniser(converse) -> None:
    """One without a VAD of ours gives its finals by itself."""
    call = converse("LISTENING").input(SttPartial, text="hello")
    assert done(call) == []


@pytest.mark.parametrize("phase", LIVE)
def test_words_are_watched_over_while_the_user_still_speaks(converse, phase: str) -> None:
    """A VAD that hears something for ever, such as a television, must not keep them."""
    call = converse(phase, endpointing={"watchdog_ms": 700}, interruption={"min_words": 9}).input(SpeechStarted)
    call.after(100).input(SttPartial, text="when are you open")
    began = call.now_us // 1000
    assert due_ms(call, "endpoint") == began + 700
    armed = call.outstanding("endpoint")
    call.after(200).input(SttPartial, text="when are you open today")
    assert call.outstanding("endpoint") == armed
    assert done(call.fires("endpoint")) == [arms("endpoint", began + 900)]
    assert done(call.fires("endpoint")) == [FinishUtterance(), arms("stt_deadline", began + 900 + 3_000)]


@pytest.mark.parametrize(("changed_us", "complete"), [(0, True), (1, False)])
def test_the_watchdog_waits_from_the_last_change_on(converse, changed_us: int, complete: bool) -> None:
    """To the microsecond: so long unchanged is long enough."""
    call = speaking_user(converse, watchdog_ms=700).input(SttPartial, text="hello")
    call.now_us += changed_us
    call.input(SttPartial, text="hello there" if changed_us else "hello").at(2_100)
    call.fires("endpoint")
    assert (FinishUtterance() in call.commands) is complete


def test_a_stop_takes_over_from_the_watchdog(converse) -> None:
    """And what fires then is not asked whether the words changed."""
    call = speaking_user(converse).input(SttPartial, text="hello").at(2_000).input(SpeechStopped)
    assert due_ms(call, "endpoint") == 3_000
    call.at(2_900).input(SttPartial, text="hello there")
    assert done(call.fires("endpoint")) == [FinishUtterance(), arms("stt_deadline", 6_000)]


@pytest.mark.parametrize("phase", LIVE)
def test_going_on_before_the_final_came_is_the_same_utterance(converse, phase: str) -> None:
    """Nobody waits for it any more, until the user stops again."""
    call = converse(phase, endpointing=RULES).input(SpeechStopped).fires("endpoint").after(50).input(SpeechStarted)
    assert done(call)[:1] == [cancels("stt_deadline")]
    assert "stt_deadline" not in timers(call)
    call.after(100).input(SpeechStopped)
    assert due_ms(call, "endpoint") == call.now_us // 1000 + 1_000


@pytest.mark.parametrize("phase", LIVE)
def test_words_before_a_pause_for_breath_are_still_watched_over(converse, phase: str) -> None:
    """What was understood before must not wait for noise that never stops."""
    call = converse(phase, endpointing={"watchdog_ms": 700}, interruption={"min_words": 9}).input(SpeechStarted)
    call.after(300).input(SttPartial, text="when are you open").input(SpeechStopped).after(100).input(SpeechStarted)
    due = call.now_us // 1000 + 700
    assert due_ms(call, "endpoint") == due
    assert done(call.fires("endpoint")) == [FinishUtterance(), arms("stt_deadline", due + 3_000)]


def test_words_of_a_voice_that_is_gone_are_complete(converse) -> None:
    """Its stop will never come, so the watchdog does not wait for more words either."""
    call = speaking_user(converse, watchdog_ms=700).input(SttPartial, text="hello").at(1_500)
    call.input(SttPartial, text="hello there").input(HandlerDetached, handler_id="")
    assert done(call.fires("endpoint")) == [FinishUtterance(), arms("stt_deadline", 2_100 + 3_000)]


def test_the_next_utterance_begins_without_words(converse) -> None:
    """What was understood of the one before, and how complete it was, says nothing about it."""
    call = speaking_user(converse).input(SttPartial, text="two teas", is_complete=True).input(SpeechStopped)
    call.fires("endpoint").fires("stt_deadline")
    assert (call.state.phase, call.state.partial_text, call.state.partial_is_complete) == ("THINKING", "", False)
    call = speaking_user(converse).input(SttPartial, text="two teas", is_complete=True).says("two teas")
    assert (call.state.phase, call.state.partial_text, call.state.partial_is_complete) == ("THINKING", "", False)
    assert due_ms(call.at(2_000).input(SpeechStopped), "endpoint") == 3_000


def test_words_that_were_taken_back_are_not_the_utterance(converse) -> None:
    """An empty final that was waited for says that there were none; what follows is another utterance."""
    call = speaking_user(converse).input(SttPartial, text="book", is_complete=True).at(2_000).input(SpeechStopped)
    call.fires("endpoint").says("")
    assert (call.state.partial_text, call.state.partial_is_complete) == ("", False)
    call.at(9_000).input(SpeechStarted).at(9_300).input(SpeechStopped)
    assert due_ms(call, "endpoint") == 10_300
    assert call.fires("endpoint").fires("stt_deadline").state.phase == "LISTENING"


def test_an_empty_final_that_nobody_waited_for_takes_nothing_back(converse) -> None:
    """It is about something else, such as the cough before."""
    call = speaking_user(converse).input(SttPartial, text="book", is_complete=True).says("")
    assert refused(call) == "empty text"
    assert (call.state.partial_text, call.state.partial_is_complete) == ("book", True)


@pytest.mark.parametrize("waits_for", ["speech", "endpoint", "final"])
def test_an_answer_waits_until_the_user_is_understood(converse, waits_for: str) -> None:
    """While they speak, while they may go on, and until their final came: it is not spoken over them."""
    call = converse("THINKING").input(SpeechStarted)
    if waits_for != "speech":
        call.input(SpeechStopped)
    if waits_for == "final":
        call.fires("endpoint")
    call.answers("Hi!")
    assert call.state.phase == "THINKING"
    assert due_ms(call, "floor_deadline") == call.now_us // 1000 + 5_000
    assert not any(isinstance(command, Speak) for command in call.commands)


def test_a_user_of_whom_nothing_is_outstanding_is_quiet(converse) -> None:
    """They coughed, and the recogniser has said that it was nothing."""
    call = converse("THINKING").input(SpeechStarted).input(SpeechStopped).fires("endpoint").says("").answers("Hi!")
    assert call.state.phase == "SPEAKING"


def pausing_user(converse, *pauses_ms: int, **rules):
    """A user who pauses like that within one utterance, and falls silent at last; and when, in ms."""
    call = converse("LISTENING", endpointing=RULES | {"incomplete_ms": 300, "longest_ms": 900} | rules)
    at_ms = 1_000
    call.at(at_ms).input(SpeechStarted).input(SttPartial, text="I would like")
    for pause_ms in pauses_ms:
        call.at(at_ms + 400).input(SpeechStopped)
        at_ms += 400 + pause_ms
        call.at(at_ms).input(SpeechStarted)
    return call.at(at_ms + 400).input(SpeechStopped), at_ms + 400


@pytest.mark.parametrize(
    ("pauses_ms", "wait_ms"),
    [
        *[((), 300), ((200,), 300), ((280,), 308), ((290,), 319)],
        *[((290, 250), 319), ((250, 290), 319)],
    ],
)
def test_a_caller_who_pauses_is_waited_for_longer(converse, pauses_ms: tuple[int, ...], wait_ms: int) -> None:
    """A tenth longer than their longest pause."""
    call, silent_ms = pausing_user(converse, *pauses_ms)
    assert due_ms(call, "endpoint") == silent_ms + wait_ms
    call.check()


@pytest.mark.parametrize(("longest_ms", "wait_ms"), [(0, 300), (300, 300), (500, 500), (900, 880)])
def test_the_wait_for_a_caller_stays_within_the_bounds(converse, longest_ms: int, wait_ms: int) -> None:
    """A caller who paused for 800 ms: their words came after the end of the utterance, and its final is awaited."""
    call, silent_ms = pausing_user(converse, 800, longest_ms=longest_ms)
    assert due_ms(call, "endpoint") == silent_ms + wait_ms


def test_complete_words_are_waited_for_as_ever(converse) -> None:
    """However the caller pauses."""
    call, silent_ms = pausing_user(converse, 800)
    call.input(SttPartial, text="I would like tea", is_complete=True)
    assert due_ms(call, "endpoint") == silent_ms + 200


def test_a_silence_that_is_no_pause_teaches_nothing(converse) -> None:
    """More than two seconds, or between two utterances; and time between words while the user speaks."""
    assert pausing_user(converse, 2_000)[0].state.pause_ms == 2_000
    assert pausing_user(converse, 2_001)[0].state.pause_ms == 0
    call = converse("LISTENING").at(1_000).input(SpeechStarted).at(1_500).input(SpeechStopped).at(2_000)
    assert call.input(SpeechStarted).state.pause_ms == 0  # nobody understood a word: it was noise
    assert call.at(2_300).input(SttPartial, text="tea").at(2_400).input(SpeechStarted).state.pause_ms == 0


def test_speaking_on_while_the_agent_thinks_was_a_pause(converse) -> None:
    """The utterance had been finished too early."""
    call = converse("THINKING").at(9_000).input(SpeechStarted).at(9_500).input(SpeechStopped).at(10_200)
    assert call.input(SpeechStarted).state.pause_ms == 700


def test_a_caller_who_pauses_no_more_is_waited_for_less(converse) -> None:
    """By a tenth after each utterance; typed words are no utterance."""
    call, _ = pausing_user(converse, 800)
    assert call.state.pause_ms == 800
    call.says("I would like tea")
    assert call.state.pause_ms == 720
    call.says("and cake", via="text")
    assert call.state.pause_ms == 720
