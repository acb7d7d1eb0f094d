"""Shows what is asked before the utterance is complete, and what comes of it when it is, or is another one."""

import pytest
from glance import arms, cancels, done, due_ms, refused, the, timers, withdraws

from events.derived import ProcessingComplete, TurnStarted
from events.inputs import (
    HandlerAttached,
    IntentResolved,
    RagAnswered,
    SpeechStarted,
    SpeechStopped,
    SttFinal,
    SttPartial,
)
from orchestrator.session.commands import AnswerQuestion, ClassifyIntent, PlayFiller, SetMicrophone, Speak
from orchestrator.session.state import OpenSpeculation

GREETED = {"greeting": {"text": "Welcome."}, "goodbye": {"after_ms": 9_000}}


def guessing(converse, tries: int = 3, stable_ms: int = 200, **policy):
    """LISTENING to a user who began to speak at 1,000 ms, under a policy that asks early."""
    rules = {"speculation": {"tries": tries, "stable_ms": stable_ms}, "endpointing": {"incomplete_ms": 250}}
    call = converse("LISTENING", **rules | policy)
    return call.at(1_000).input(SpeechStarted)


def partial(call, text: str, is_complete: bool = True):
    return call.input(SttPartial, text=text, is_complete=is_complete)


def asked(call) -> list:
    """The questions of the last step: which try, about what."""
    return [(c.name, c.speculation, c.text) for c in call.commands if isinstance(c, ClassifyIntent | AnswerQuestion)]


def both(number: int, text: str) -> list:
    return [("ClassifyIntent", number, text), ("AnswerQuestion", number, text)]


def test_words_that_the_recogniser_holds_complete_are_asked_about_at_once(converse) -> None:
    """Intent and answer, with the conversation up to now, and as a part of the turn that is to come."""
    call = partial(guessing(converse), " when are you open ")
    assert done(call) == [
        arms("endpoint", 6_000),
        ClassifyIntent(speculation=1, text="when are you open"),
        AnswerQuestion(conversation_to=call.last[0].version - 1, speculation=1, text="when are you open"),
    ]
    assert (call.state.phase, call.state.tries) == ("LISTENING", 1)
    assert call.state.speculation == OpenSpeculation(1, "when are you open")


def test_without_an_intent_service_the_answer_alone_is_asked_for(converse) -> None:
    """`intent.skip` holds for guesses, too."""
    call = partial(guessing(converse, intent={"skip": True}), "hello")
    assert asked(call) == [("AnswerQuestion", 1, "hello")]
    call.input(RagAnswered, answer="Hi!").says("hello")
    assert (call.state.phase, the(call, ProcessingComplete).intent) == ("SPEAKING", "")


def test_nothing_is_asked_early_where_the_policy_does_not_say_so(converse) -> None:
    """The default: a question costs money."""
    call = partial(converse("LISTENING").input(SpeechStarted), "hello")
    assert done(call) == [arms("endpoint", 5_000)]
    assert call.state.policy.speculation.tries == 0
    call = partial(guessing(converse, tries=0, stable_ms=200), "hello", is_complete=False)
    assert done(call) == [arms("endpoint", 6_000)]


@pytest.mark.parametrize("text", ["", "  "])
def test_no_words_are_no_question(converse, text: str) -> None:
    """A recogniser that has understood nothing yet, whatever it holds of that, and when speech has stopped, too."""
    call = partial(guessing(converse), text)
    assert asked(call) == []
    assert asked(partial(call, text, is_complete=False).fires("stable")) == []
    assert done(call.input(SpeechStopped))[-1:] == [arms("endpoint", call.now_us // 1000 + 250)]


def test_silence_says_that_the_words_are_stable(converse) -> None:
    """They are asked about when speech stops, before it is known whether the user goes on."""
    call = partial(guessing(converse, stable_ms=0), "when are you open", is_complete=False)
    assert done(call) == [arms("endpoint", 6_000)]
    assert done(call.at(2_000).input(SpeechStopped)) == [
        cancels("endpoint"),
        arms("endpoint", 2_250),
        ClassifyIntent(speculation=1, text="when are you open"),
        AnswerQuestion(conversation_to=call.last[0].version - 1, speculation=1, text="when are you open"),
    ]


def test_words_that_come_in_the_silence_are_asked_about_at_once(converse) -> None:
    """Nothing will change them but the final; once that is waited for it is too late for a guess."""
    call = guessing(converse, stable_ms=0).at(2_000).input(SpeechStopped)
    assert asked(partial(call.at(2_100), "when are you", is_complete=False)) == both(1, "when are you")
    assert asked(partial(call.at(2_200), "when are you open", is_complete=False)) == both(2, "when are you open")
    call.fires("endpoint")
    assert asked(partial(call, "when are you open today", is_complete=False)) == []


def test_words_that_nobody_was_heard_to_speak_are_asked_about_when_they_are_complete(converse) -> None:
    """A recogniser without a VAD of ours: neither speech nor silence says how stable its words are."""
    call = converse("LISTENING", speculation={"tries": 1})
    assert done(partial(call, "hello", is_complete=False)) == []
    assert asked(partial(call, "hello")) == both(1, "hello")


def test_other_words_are_asked_about_when_they_have_not_changed_for_a_while(converse) -> None:
    """Each change begins the wait anew; one timer is enough."""
    call = partial(guessing(converse).at(1_100), "when are", is_complete=False)
    assert done(call) == [arms("endpoint", 6_100), arms("stable", 1_300)]
    assert done(partial(call.at(1_200), "when are you open", is_complete=False)) == []
    assert done(call.fires("stable")) == [arms("stable", 1_400)]
    assert done(partial(call.at(1_350), "when are you open", is_complete=False)) == []
    assert asked(call.fires("stable")) == both(1, "when are you open")
    assert call.now_us == 1_400_000


@pytest.mark.parametrize(("early_us", "asks"), [(0, True), (1, False)])
def test_words_are_stable_to_the_microsecond(converse, early_us: int, asks: bool) -> None:
    """So long unchanged is long enough; a little less is not."""
    call = partial(guessing(converse).at(1_100), "hello", is_complete=False)
    call.now_us += early_us
    partial(call, "hello there" if early_us else "hello", is_complete=False).at(1_300)
    assert bool(asked(call.fires("stable"))) is asks


def test_words_that_were_taken_back_are_not_asked_about(converse) -> None:
    """The wait ends without a question; the next words begin another."""
    call = partial(guessing(converse).at(1_100), "when", is_complete=False)
    partial(call.at(1_200), " ", is_complete=False)
    assert done(call.fires("stable")) == [arms("stable", 1_400)]
    assert done(call.fires("stable")) == []
    assert "stable" in timers(partial(call, "where", is_complete=False))


def test_the_same_words_are_asked_about_once(converse) -> None:
    """However they are written."""
    call = partial(guessing(converse), "hello")
    assert asked(partial(call.after(50), "Hello!")) == []
    assert call.state.tries == 1


def test_other_words_are_another_try(converse) -> None:
    """What was asked before is withdrawn, as far as it is still outstanding."""
    call = partial(guessing(converse), "hello").input(IntentResolved, intent="greeting")
    partial(call.after(50), "hello there")
    assert done(call) == [
        withdraws("answer"),
        ClassifyIntent(speculation=2, text="hello there"),
        AnswerQuestion(conversation_to=call.last[0].version - 1, speculation=2, text="hello there"),
    ]
    assert call.state.speculation == OpenSpeculation(2, "hello there")
    partial(call.after(50), "hello there you")
    assert done(call)[:2] == [withdraws("intent"), withdraws("answer")]


def test_the_tries_of_an_utterance_are_counted(converse) -> None:
    """After the last one what was asked stays asked: the user may come back to it."""
    call = guessing(converse, tries=2)
    assert asked(partial(call, "a")) == both(1, "a")
    assert asked(partial(call, "a b")) == both(2, "a b")
    assert done(partial(call, "a b c")) == []
    assert len(call.state.outstanding("ClassifyIntent", "AnswerQuestion")) == 2


def test_the_tries_of_the_next_turn_are_counted_anew(converse) -> None:
    """Each utterance has its own."""
    call = partial(guessing(converse, tries=1), "hello").says("hello").answers("Hi!").speaks().played()
    assert asked(partial(call.input(SpeechStarted), "bye")) == both(1, "bye")


def test_results_that_came_early_are_the_turns(converse) -> None:
    """The answer is spoken as soon as the utterance is complete, and nothing is asked again."""
    call = partial(guessing(converse, filler={"delay_ms": 0, "text": "Hm."}), "hello").after(200)
    call.input(IntentResolved, intent="greeting", elapsed_us=200_000)
    call.after(100).input(RagAnswered, answer="Hi!", elapsed_us=300_000).after(100).says("Hello!")
    assert done(call) == [
        cancels("endpoint"),
        SetMicrophone("gated"),
        Speak(ends="", from_ms=0, playback_id="answer-1", text="Hi!"),
        arms("tts_deadline", 4_400 + 2_000),
    ]
    assert the(call, TurnStarted).speculation == 1
    complete = the(call, ProcessingComplete)
    assert (complete.answer, complete.intent, complete.elapsed_us, complete.saved_us) == ("Hi!", "greeting", 0, 0)
    assert (call.state.speculation, call.state.tries) == (None, 0)


def test_questions_that_are_still_under_way_are_the_turns(converse) -> None:
    """They are not asked again, but have a deadline from now on, and their results count."""
    call = partial(guessing(converse, filler={"delay_ms": 0, "text": "Hm."}), "hello").at(1_500).says("hello")
    assert done(call) == [
        cancels("endpoint"),
        SetMicrophone("gated"),
        PlayFiller(playback_id="filler-1", text="Hm."),
        arms("intent_deadline", 2_500),
        arms("answer_deadline", 5_500),
    ]
    call.at(1_700).input(IntentResolved, intent="greeting", elapsed_us=700_000)
    call.at(1_800).input(RagAnswered, answer="Hi!", elapsed_us=800_000)
    complete = the(call, ProcessingComplete)
    assert (complete.elapsed_us, complete.saved_us) == (300_000, 300_000)


@pytest.mark.parametrize("early", ["intent", "answer"])
def test_one_result_may_come_before_the_turn_and_the_other_in_it(converse, early: str) -> None:
    """Each counts as if it had been asked in the turn."""
    call = partial(guessing(converse), "hello")
    results = {
        "intent": lambda: call.input(IntentResolved, intent="greeting", elapsed_us=100_000),
        "answer": lambda: call.input(RagAnswered, answer="Hi!", elapsed_us=200_000),
    }
    results.pop(early)()
    call.at(1_500).says("hello")
    left = {"intent": "answer", "answer": "intent"}[early]
    assert done(call) == [
        cancels("endpoint"),
        SetMicrophone("gated"),
        arms(f"{left}_deadline", {"intent": 2_500, "answer": 5_500}[left]),
    ]
    call.at(1_600)
    results[left]()
    complete = the(call, ProcessingComplete)
    assert (complete.answer, complete.intent, complete.saved_us) == ("Hi!", "greeting", 100_000)


def test_a_turn_of_other_words_asks_anew(converse) -> None:
    """What came of the guess says nothing about them."""
    call = partial(guessing(converse), "hello").input(IntentResolved, intent="greeting").at(1_500).says("hello there")
    assert done(call) == [
        cancels("endpoint"),
        withdraws("answer"),
        SetMicrophone("gated"),
        ClassifyIntent(speculation=0, text="hello there"),
        AnswerQuestion(conversation_to=call.last[0].version - 1, speculation=0, text="hello there"),
        arms("intent_deadline", 2_500),
        arms("answer_deadline", 5_500),
    ]
    assert the(call, TurnStarted).speculation == 0
    assert call.state.task.found.intent is None


def test_the_second_try_is_the_one_that_a_turn_names(converse) -> None:
    """A replay can tell which words were asked about in time."""
    call = partial(partial(guessing(converse), "hello"), "hello there").says("hello there")
    assert the(call, TurnStarted).speculation == 2


@pytest.mark.parametrize("command", ["ClassifyIntent", "AnswerQuestion"])
def test_a_guess_that_fails_is_no_loss(converse, command: str) -> None:
    """What else was asked is withdrawn, no failure is counted, and the turn asks anew."""
    call = partial(guessing(converse), "hello").fails(command)
    assert done(call) == [withdraws({"ClassifyIntent": "answer", "AnswerQuestion": "intent"}[command])]
    assert (call.state.speculation, call.state.answer_failures) == (None, 0)
    assert asked(call.says("hello")) == both(0, "hello")


def test_after_a_guess_that_failed_the_same_words_are_another_try(converse) -> None:
    """As far as there are tries."""
    call = partial(guessing(converse, tries=2), "hello").fails("AnswerQuestion")
    assert asked(partial(call, "hello")) == both(2, "hello")
    call.fails("AnswerQuestion")
    assert asked(partial(call, "hello")) == []


def test_a_guess_that_was_answered_ends_a_row_of_failures(converse) -> None:
    """The answer service is back, and its answer is used."""
    call = converse("LISTENING", speculation={"tries": 1}).says("one").fails("AnswerQuestion").speaks().played()
    assert call.state.answer_failures == 1
    partial(call, "two").input(RagAnswered, answer="2")
    assert call.state.answer_failures == 1
    assert call.says("two").state.answer_failures == 0


def test_a_guess_that_was_not_answered_yet_ends_no_row_of_failures(converse) -> None:
    """Neither does one about other words."""
    call = converse("LISTENING", speculation={"tries": 1}).says("one").fails("AnswerQuestion").speaks().played()
    assert partial(call, "two").says("two").state.answer_failures == 1
    call = converse("LISTENING", speculation={"tries": 1}).says("one").fails("AnswerQuestion").speaks().played()
    assert partial(call, "two").input(RagAnswered, answer="2").says("three").state.answer_failures == 1


@pytest.mark.parametrize("end", ["empty", "missing"])
def test_a_guess_about_a_cough_is_withdrawn(converse, end: str) -> None:
    """The words were taken back: what comes of the questions is stale, and the next utterance has all tries."""
    call = partial(guessing(converse, tries=1), "book")
    if end == "missing":
        partial(call, "")
    first = call.outstanding("AnswerQuestion")
    call.input(SpeechStopped).fires("endpoint")
    call = call.says("") if end == "empty" else call.fires("stt_deadline")
    assert [command for command in done(call) if command != cancels("stt_deadline")] == [
        withdraws("intent"),
        withdraws("answer"),
    ]
    assert (call.state.speculation, call.state.tries) == (None, 0)
    call.input(RagAnswered, command_id=first.command_id, answer="late")
    assert refused(call) == "stale: its command is not outstanding"
    assert asked(partial(call.input(SpeechStarted), "table")) == both(1, "table")


@pytest.mark.parametrize("end", ["empty", "missing"])
def test_a_guess_about_the_words_after_a_cough_is_another_question(converse, end: str) -> None:
    """A service that knows the key of the first one must not give its answer."""
    call = partial(guessing(converse, tries=1), "book")
    if end == "missing":
        partial(call, "")
    keys = [call.outstanding(name).idempotency_key for name in ("ClassifyIntent", "AnswerQuestion")]
    call.input(SpeechStopped).fires("endpoint")
    call = call.says("") if end == "empty" else call.fires("stt_deadline")
    partial(call.input(SpeechStarted), "table")
    keys += [call.outstanding(name).idempotency_key for name in ("ClassifyIntent", "AnswerQuestion")]
    assert len(set(keys)) == 4


def test_an_empty_final_that_nobody_waited_for_leaves_the_guess_alone(converse) -> None:
    """The user still speaks."""
    call = partial(guessing(converse), "hello").says("")
    assert (refused(call), done(call)) == ("empty text", [])
    assert (call.state.speculation, call.state.tries) == (OpenSpeculation(1, "hello"), 1)


def test_a_guess_is_kept_while_its_final_is_missing(converse) -> None:
    """The last partial is the utterance, and what was asked about it is the turn's."""
    call = partial(guessing(converse), "hello").input(RagAnswered, answer="Hi!").input(SpeechStopped)
    call.fires("endpoint").fires("stt_deadline")
    assert the(call, TurnStarted).speculation == 1
    assert call.state.task.found.answer == "Hi!"


def test_typed_words_are_compared_with_the_guess_too(converse) -> None:
    """Whichever way they come, the answer to them is the same."""
    call = partial(guessing(converse), "hello").input(SttFinal, text="Hello?", via="text")
    assert the(call, TurnStarted).speculation == 1


def test_nothing_is_asked_early_while_the_agent_thinks_or_speaks(converse) -> None:
    """Words over the agent are evidence; they are asked about when they open a turn."""
    for phase in ("IDLE", "THINKING", "SPEAKING", "INTERRUPT"):
        call = converse(phase, speculation={"tries": 3}, interruption={"min_words": 9})
        assert asked(partial(call, "what I meant")) == []
        assert "stable" not in timers(call)


def test_a_guess_is_withdrawn_when_the_agent_speaks_first(converse) -> None:
    """A time limit while words without a voice are guessed about."""
    call = converse("LISTENING", speculation={"stable_ms": 200, "tries": 2}, **GREETED)
    partial(partial(call, "hel", is_complete=False), "hello").fires("session_limit")
    assert done(call)[:6] == [
        withdraws("intent"),
        withdraws("answer"),
        cancels("greeting"),
        cancels("stable"),
        SetMicrophone("gated"),
        Speak(ends="time_limit", from_ms=0, playback_id=f"farewell-{call.state.inputs}", text=call.state.playback.text),
    ]


def test_a_new_owner_withdraws_what_was_asked_early(converse) -> None:
    """The speech went to the old one; no guess and no wait for a stable one is left."""
    call = partial(partial(guessing(converse), "hello"), "hello there", is_complete=False)
    assert "stable" in timers(call)
    call.at(1_500).resumes("incarnation-2")
    assert done(call)[:3] == [withdraws("intent"), withdraws("answer"), cancels("stable")]
    assert call.state.speculation is None
    assert call.state.outstanding("ClassifyIntent", "AnswerQuestion") == []


def test_a_new_owner_asks_again_what_a_turn_took_over_from_a_guess(converse) -> None:
    """Under the key that it was asked with."""
    call = partial(guessing(converse), "hello").says("hello")
    before = {name: call.outstanding(name) for name in ("ClassifyIntent", "AnswerQuestion")}
    call.resumes("incarnation-2")
    for name, command in before.items():
        again = call.outstanding(name)
        assert (again.retry_of, again.payload) == (command.command_id, command.payload)
        assert again.idempotency_key == command.idempotency_key
    assert call.answers("Hi!").state.phase == "SPEAKING"


def test_the_end_of_a_conversation_withdraws_what_was_asked_early(converse) -> None:
    """Nothing stays outstanding."""
    call = partial(guessing(converse), "hello").closes()
    assert done(call)[:2] == [withdraws("intent"), withdraws("answer")]
    assert not call.state.pending


def test_a_handler_that_comes_leaves_the_guess_alone(converse) -> None:
    """The user is speaking."""
    call = partial(guessing(converse), "hello").input(HandlerAttached, handler_id="fastrtc_1")
    assert len(call.state.outstanding("ClassifyIntent", "AnswerQuestion")) == 2
    assert due_ms(call, "endpoint") == 6_000


def test_an_utterance_that_came_to_nothing_leaves_no_guess_to_the_next(converse) -> None:
    """Its words were taken back, and no final came: the same words are another utterance, with tries of its own."""
    call = partial(partial(guessing(converse, tries=1), "hello"), "").input(SpeechStopped).fires("endpoint")
    call.fires("stt_deadline")
    assert (call.state.tries, call.state.speculation) == (0, None)
    assert asked(partial(call.input(SpeechStarted), "hello")) == both(1, "hello")


def test_a_timer_takes_no_guess_back(converse) -> None:
    """But the one that says that nothing was said."""
    call = partial(guessing(converse), "hello").input(SpeechStopped)
    partial(call, "").fires("endpoint")
    assert (call.state.tries, call.state.speculation) == (1, OpenSpeculation(1, "hello"))
