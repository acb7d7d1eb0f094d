"""Shows what the agent says of its own accord: the greeting, a prompt for a silent user, the farewells."""

import pytest
from glance import arms, cancels, done, due_ms, refused, the, timers

from events.derived import AnswerEnded, ProcessingComplete, SessionEnded, StateChanged, TurnEnded, UserInterrupted
from events.inputs import (
    HandlerAttached,
    HandlerDetached,
    SpeechStarted,
    SpeechStopped,
    SttPartial,
    TtsChunkReady,
)
from orchestrator.session.commands import CancelTask, ClearText, CloseSession, SetMicrophone, Speak, StopPlayback
from orchestrator.session.policy import Policy

AWAY = {"text": "Are you there?"}
GREETING = {"text": "Welcome."}
FAREWELL = Policy().goodbye.text
LAST_WORDS = Policy().fallback.goodbye


def in_a_call(converse, **policy):
    """LISTENING to a user who has a voice, from 1,000 ms on."""
    return converse("LISTENING", **policy).at(1_000).input(HandlerAttached, handler_id="fastrtc_1")


def coughs(call):
    """Speech of which nothing was understood."""
    return call.input(SpeechStarted).input(SpeechStopped).fires("endpoint").says("")


def said(call) -> Speak:
    (command,) = (command for command in call.commands if isinstance(command, Speak))
    return command


def says_of_its_own(call, text: str, ends: str = ""):
    """What a step must do in which the agent begins to speak of its own accord, after what was withdrawn."""
    return [
        SetMicrophone("gated"),
        Speak(ends=ends, from_ms=0, playback_id=call.state.playback.playback_id, text=text),
        arms("tts_deadline", call.now_us // 1000 + 3_000 + (0 if call.state.handler_id else 2_000)),
    ]


# The greeting.


def test_the_greeting_waits_for_a_voice(converse) -> None:
    """From the first connection on; without a greeting nothing is waited for."""
    call = converse("IDLE", greeting=GREETING).at(500).connects()
    assert done(call)[-1:] == [arms("greeting", 2_500)]
    assert timers(converse("IDLE").connects()) == set()


def test_the_greeting_is_said_when_the_voice_is_there(converse) -> None:
    """It is spoken under a playback of its own, and listened to like an answer."""
    call = in_a_call(converse, greeting=GREETING)
    assert done(call) == [SetMicrophone("open"), cancels("greeting"), *says_of_its_own(call, "Welcome.")]
    assert call.state.playback.playback_id == "greeting"
    assert call.golden[-1] == "[auto_session_12345] 🔴 SPEAKING (greeting)"
    call.speaks(chunks=5).after(1_000).played()
    assert (call.state.phase, call.state.turn) == ("LISTENING", 0)
    assert [event.heard_text for event in call.last if isinstance(event, AnswerEnded)] == ["Welcome."]
    assert not [event for event in call.last if isinstance(event, TurnEnded)]


def test_without_a_voice_the_greeting_is_shown_after_a_while(converse) -> None:
    """A client that types."""
    call = converse("LISTENING", greeting=GREETING | {"wait_ms": 700}).fires("greeting")
    assert call.now_us == 700_000
    assert done(call) == says_of_its_own(call, "Welcome.")


def test_the_user_is_greeted_once(converse) -> None:
    """A voice that comes later, or again, is not."""
    call = converse("LISTENING", greeting=GREETING).fires("greeting").speaks().played()
    call.input(HandlerAttached, handler_id="fastrtc_1").input(HandlerAttached, handler_id="fastrtc_2")
    assert done(call) == [SetMicrophone("open")]
    assert done(call.input(HandlerDetached, handler_id="fastrtc_2").connects("browser-2")) == []


@pytest.mark.parametrize("voice", [True, False])
def test_a_user_who_speaks_first_is_not_greeted(converse, voice: bool) -> None:
    """It would be spoken over them; their words open the first turn."""
    call = converse("LISTENING", greeting=GREETING).at(100).input(SpeechStarted)
    call = call.input(HandlerAttached, handler_id="fastrtc_1") if voice else call.fires("greeting")
    assert done(call) == [SetMicrophone("open"), cancels("greeting")][: 2 if voice else 0]
    assert call.state.phase == "LISTENING"
    assert timers(call) == set()


@pytest.mark.parametrize("waits_for", ["endpoint", "stt_deadline"])
def test_a_user_who_has_just_spoken_is_not_greeted(converse, waits_for: str) -> None:
    """What they said is still being understood."""
    call = converse("LISTENING", greeting=GREETING).input(SpeechStarted).input(SpeechStopped)
    if waits_for == "stt_deadline":
        call.fires("endpoint")
    call.input(HandlerAttached, handler_id="fastrtc_1")
    assert (call.state.phase, timers(call)) == ("LISTENING", {waits_for})


def test_words_come_before_the_greeting(converse) -> None:
    """A turn that begins withdraws it."""
    call = converse("LISTENING", greeting=GREETING).says("hello", via="text")
    assert "greeting" not in timers(call)


def test_a_greeting_can_be_interrupted(converse) -> None:
    """There is no turn to cancel."""
    call = in_a_call(converse, greeting=GREETING).speaks().after(100).says("stop it")
    assert done(call) == [
        StopPlayback(playback_id="greeting"),
        cancels("playback_deadline"),
        arms("interrupt_pause", call.now_us // 1000 + 50),
    ]
    assert the(call, UserInterrupted).playback_id == "greeting"
    assert call.fires("interrupt_pause").state.task.text == "stop it"


def test_a_greeting_that_fails_leads_to_listening(converse) -> None:
    """The conversation can still be had."""
    call = in_a_call(converse, greeting=GREETING).fails("Speak")
    assert done(call) == [
        StopPlayback(playback_id="greeting"),
        cancels("tts_deadline"),
        SetMicrophone("open"),
        ClearText(),
    ]
    assert not [command for command in call.commands if isinstance(command, CancelTask)]


def test_a_greeting_is_waited_for_anew_by_a_new_owner(converse) -> None:
    """The voice has to come back first."""
    call = converse("LISTENING", greeting=GREETING | {"wait_ms": 700}).at(600).resumes("incarnation-2")
    assert due_ms(call, "greeting") == 1_300


def test_a_greeting_that_is_spoken_goes_on_with_a_new_owner(converse) -> None:
    """Under its key."""
    call = in_a_call(converse, greeting=GREETING)
    key = call.outstanding("Speak").idempotency_key
    assert said(call.resumes("incarnation-2")).text == "Welcome."
    assert call.outstanding("Speak").idempotency_key == key != ""


# Away.


def test_a_user_with_a_voice_who_says_nothing_is_away(converse) -> None:
    """After so long the agent asks; without a text for it, or without a voice, it waits for ever."""
    call = in_a_call(converse, away=AWAY)
    assert done(call) == [SetMicrophone("open"), arms("away", 16_000)]
    call.fires("away")
    assert done(call) == says_of_its_own(call, "Are you there?")
    assert call.state.playback.playback_id == f"away-{call.state.inputs}"
    assert call.golden[-1] == "[auto_session_12345] 🔴 SPEAKING (user_away)"
    assert call.state.away_prompts == 1
    assert timers(in_a_call(converse)) == set()
    assert timers(converse("LISTENING", away=AWAY).says("hello").answers("Hi!").speaks().played()) == set()


def test_a_user_whose_voice_was_there_before_their_client_is_missed_too(converse) -> None:
    """Where they are greeted, from the greeting on."""
    call = converse("IDLE", away=AWAY).input(HandlerAttached, handler_id="fastrtc_1").at(1_000).connects()
    assert done(call)[-2:] == [ClearText(), arms("away", 16_000)]
    call = converse("IDLE", away=AWAY, greeting=GREETING).input(HandlerAttached, handler_id="fastrtc_1").connects()
    assert timers(call) == {"greeting"}


def test_a_user_is_missed_from_the_end_of_an_answer_on(converse) -> None:
    """And from the end of every prompt."""
    call = in_a_call(converse, away=AWAY | {"after_ms": 700}).says("hello").answers("Hi!").speaks().played()
    assert due_ms(call, "away") == call.now_us // 1000 + 700
    call.fires("away").speaks().after(2_000).played()
    assert due_ms(call, "away") == call.now_us // 1000 + 700


def test_after_an_interrupt_without_words_the_user_may_be_away_too(converse) -> None:
    """They took the floor, and left."""
    call = in_a_call(converse, away=AWAY).says("hello").answers("Hi!").interrupts().fires("interrupt_pause")
    assert due_ms(call, "away") == call.now_us // 1000 + 15_000


def test_somebody_who_speaks_is_there(converse) -> None:
    """The time begins anew when they stop, and once more when nothing was understood."""
    call = in_a_call(converse, away=AWAY).at(5_000).input(SpeechStarted)
    assert done(call) == [cancels("away")]
    assert done(call.at(6_000).input(SpeechStopped))[-1:] == [arms("away", 21_000)]
    call.fires("endpoint").at(7_000).says("")
    assert done(call) == [cancels("stt_deadline"), cancels("away"), arms("away", 22_000)]


def test_a_final_that_never_came_is_no_word_either(converse) -> None:
    """The time begins anew."""
    call = in_a_call(converse, away=AWAY).input(SpeechStarted).input(SpeechStopped).fires("endpoint")
    call.fires("stt_deadline")
    assert done(call) == [cancels("away"), arms("away", call.now_us // 1000 + 15_000)]


@pytest.mark.parametrize("waits_for", ["endpoint", "stt_deadline"])
def test_somebody_who_is_being_understood_is_not_asked_whether_they_are_there(converse, waits_for: str) -> None:
    """What they said decides, and where it was nothing, they are waited for anew."""
    slow = {"incomplete_ms": 90_000 if waits_for == "endpoint" else 500}
    call = in_a_call(converse, away=AWAY, endpointing=slow, deadlines={"stt_ms": 90_000})
    call.input(SpeechStarted).input(SpeechStopped)
    if waits_for == "stt_deadline":
        call.fires("endpoint")
    assert done(call.fires("away")) == []
    assert timers(call) == {waits_for}
    if waits_for == "endpoint":
        call.fires("endpoint")
    assert "away" in timers(call.says(""))


def test_somebody_who_spoke_over_the_end_of_the_answer_is_there(converse) -> None:
    """Their onset was heard in SPEAKING, and they go on."""
    call = in_a_call(converse, away=AWAY | {"after_ms": 700}).says("hello").answers("Hi!").speaks()
    call.input(SpeechStarted).played()
    again_ms = call.policy.away.after_ms
    assert done(call.fires("away")) == [arms("away", call.now_us // 1000 + again_ms)]
    assert "away" in timers(call.input(SpeechStopped))


def test_words_begin_a_turn_and_nobody_is_missed_in_it(converse) -> None:
    """The agent has the floor."""
    assert "away" not in timers(in_a_call(converse, away=AWAY).says("hello"))


def test_a_user_whose_voice_is_gone_is_not_missed(converse) -> None:
    """Whoever comes back is missed again."""
    call = in_a_call(converse, away=AWAY).at(2_000).input(HandlerDetached, handler_id="fastrtc_1")
    assert done(call) == [cancels("away")]
    assert done(call.at(3_000).input(HandlerAttached, handler_id="fastrtc_2"))[-1:] == [arms("away", 18_000)]


def test_a_voice_that_replaces_another_is_missed_from_then_on(converse) -> None:
    """One timer is enough; the goodbye of the one that was replaced withdraws nothing."""
    call = in_a_call(converse, away=AWAY).at(2_000).input(HandlerAttached, handler_id="fastrtc_2")
    assert done(call) == [SetMicrophone("open"), cancels("away"), arms("away", 17_000)]
    call.input(HandlerDetached, handler_id="fastrtc_1")
    assert refused(call) == "another handler serves the session by now"
    assert due_ms(call, "away") == 17_000


def test_a_voice_that_comes_while_the_agent_speaks_is_missed_later(converse) -> None:
    """When it is their turn."""
    call = converse("SPEAKING", away=AWAY).input(HandlerAttached, handler_id="fastrtc_1")
    assert done(call) == [SetMicrophone("gated")]
    assert "away" in timers(call.speaks().played())


@pytest.mark.parametrize("prompts", [0, 1, 2])
def test_after_some_prompts_without_a_word_the_agent_says_goodbye(converse, prompts: int) -> None:
    """And ends the conversation with it."""
    call = in_a_call(converse, away=AWAY | {"prompts": prompts})
    for number in range(prompts):
        call.fires("away")
        assert (said(call).text, said(call).ends) == ("Are you there?", "")
        assert call.state.away_prompts == number + 1
        call.speaks().played()
    call.fires("away")
    assert done(call) == says_of_its_own(call, FAREWELL, "user_away")
    assert call.state.playback.playback_id == f"farewell-{call.state.inputs}"
    assert [event.reason for event in call.last if isinstance(event, StateChanged)] == ["user_away"]
    call.speaks().played()
    assert done(call)[-1:] == [CloseSession(reason="user_away")]
    assert the(call, SessionEnded).reason == "user_away"


def test_words_begin_the_prompts_anew(converse) -> None:
    """Sounds do not."""
    call = in_a_call(converse, away=AWAY | {"prompts": 1}).fires("away").speaks().played()
    assert coughs(call).state.away_prompts == 1
    call.says("yes").answers("Fine.").speaks().played()
    assert call.state.away_prompts == 0
    assert said(call.fires("away")).text == "Are you there?"


def test_a_prompt_can_be_interrupted(converse) -> None:
    """By the answer to it."""
    call = in_a_call(converse, away=AWAY).fires("away").speaks(chunks=10, chunk_ms=500).says("I am here")
    assert call.fires("interrupt_pause").state.task.text == "I am here"


def test_somebody_who_interrupts_the_farewell_and_says_nothing_is_missed_again(converse) -> None:
    """The conversation goes on, and ends with the next farewell."""
    call = in_a_call(converse, away=AWAY | {"prompts": 1}).fires("away").speaks().played().fires("away")
    call.interrupts().fires("interrupt_pause").fires("away")
    assert said(call).ends == "user_away"


def test_a_farewell_that_cannot_be_spoken_ends_the_conversation_too(converse) -> None:
    """For the same reason."""
    call = in_a_call(converse, away=AWAY | {"prompts": 0}).fires("away").fires("tts_deadline")
    assert (call.state.phase, the(call, SessionEnded).reason) == ("ENDED", "user_away")
    assert the(call, AnswerEnded).outcome == "failed"


def test_nobody_is_missed_by_a_new_owner_until_the_voice_is_back(converse) -> None:
    """It has to connect again."""
    call = in_a_call(converse, away=AWAY).resumes("incarnation-2")
    assert timers(call) == {"reconnect"}
    assert "away" in timers(call.input(HandlerAttached, handler_id="fastrtc_2"))


# The user's goodbye.


def test_the_answer_to_a_goodbye_ends_the_conversation(converse) -> None:
    """It is spoken to its end."""
    call = converse("THINKING", goodbye={"intent": "bye"}).answers("See you!", intent="bye")
    assert the(call, ProcessingComplete).ends == "goodbye"
    assert (said(call).ends, said(call).text) == ("goodbye", "See you!")
    call.speaks().played()
    assert (call.state.phase, the(call, SessionEnded).reason) == ("ENDED", "goodbye")
    assert [event.outcome for event in call.last if isinstance(event, TurnEnded)] == ["completed"]


@pytest.mark.parametrize(("configured", "intent"), [("bye", "greeting"), ("", "bye"), ("", "")])
def test_another_answer_does_not(converse, configured: str, intent: str) -> None:
    """Nor any, where the policy names no intent; an empty intent is none."""
    call = converse("THINKING", goodbye={"intent": configured}).answers("Hi!", intent=intent)
    assert the(call, ProcessingComplete).ends == said(call).ends == ""


def test_a_goodbye_whose_answer_fails_is_asked_about_again(converse) -> None:
    """The fallback says so, and a question is no end."""
    call = converse("THINKING", goodbye={"intent": "bye"}, deadlines={"intent_ms": 9_000})
    call.fires("answer_deadline")
    assert (the(call, ProcessingComplete).ends, the(call, ProcessingComplete).fallback) == ("", "answer_deadline")


# The time limit.


def test_the_time_of_a_conversation_is_measured_from_its_opening(converse) -> None:
    """Where the policy gives it one."""
    assert arms("session_limit", 9_000) in done(converse("IDLE", goodbye={"after_ms": 9_000}))
    assert timers(converse("IDLE")) == {"reconnect"}


def test_a_conversation_whose_time_is_over_ends_with_a_farewell(converse) -> None:
    """While nobody speaks."""
    call = in_a_call(converse, away=AWAY, goodbye={"after_ms": 9_000, "text": "Time is up."}).fires("session_limit")
    assert done(call) == [cancels("away"), *says_of_its_own(call, "Time is up.", "time_limit")]
    assert [event.reason for event in call.last if isinstance(event, StateChanged)] == ["time_limit"]
    assert call.state.playback.playback_id == f"farewell-{call.state.inputs}"
    call.speaks().played()
    assert (call.state.phase, the(call, SessionEnded).reason) == ("ENDED", "time_limit")


def test_a_farewell_comes_before_the_greeting(converse) -> None:
    """Whose voice never came."""
    call = converse("LISTENING", greeting=GREETING, goodbye={"after_ms": 1_000}).fires("session_limit")
    assert done(call)[:1] == [cancels("greeting")]


def test_a_user_who_is_speaking_when_the_time_is_over_is_waited_for(converse) -> None:
    """But not for ever; somebody who only makes sounds gets the farewell."""
    call = in_a_call(converse, goodbye={"after_ms": 9_000}).at(8_900).input(SpeechStarted).fires("session_limit")
    assert done(call) == [arms("session_limit", 14_000)]
    call.fires("session_limit")
    assert said(call).ends == "time_limit"


def test_a_user_who_was_waited_for_and_said_nothing_gets_the_farewell_then(converse) -> None:
    """When the time for it is over: they may go on until then."""
    call = coughs(
        in_a_call(converse, goodbye={"after_ms": 9_000}).at(8_900).input(SpeechStarted).fires("session_limit")
    )
    assert call.state.phase == "LISTENING"
    assert said(call.fires("session_limit")).ends == "time_limit"


@pytest.mark.parametrize("phase", ["THINKING", "SPEAKING"])
def test_the_answer_that_is_under_way_when_the_time_is_over_is_still_heard(converse, phase: str) -> None:
    """Then the farewell follows at once."""
    call = converse(phase, goodbye={"after_ms": 1_400}).fires("session_limit")
    assert done(call) == []
    call = call.answers("Hi!") if phase == "THINKING" else call
    call.speaks().after(2_000).played()
    assert [(event.from_phase, event.to_phase) for event in call.last if isinstance(event, StateChanged)] == [
        ("SPEAKING", "LISTENING"),
        ("LISTENING", "SPEAKING"),
    ]
    assert said(call).ends == "time_limit"


def test_an_answer_that_is_interrupted_after_the_time_is_over_is_the_last(converse) -> None:
    """The words that interrupted it open no turn."""
    call = converse("SPEAKING", goodbye={"after_ms": 1_400}).says("one more thing").fires("session_limit")
    assert done(call) == []
    call.fires("interrupt_pause")
    assert said(call).ends == "time_limit"
    assert (call.state.turn, call.state.held_text) == (1, "one more thing")
    assert call.speaks().played().state.phase == "ENDED"


def test_words_that_were_waited_for_after_the_time_was_over_are_answered(converse) -> None:
    """Then the farewell follows, whatever the timer says meanwhile."""
    call = converse("LISTENING", goodbye={"after_ms": 9_000}).at(8_900).input(SpeechStarted).fires("session_limit")
    call.says("one more thing").answers("Yes.").speaks(chunks=50, chunk_ms=500)
    assert done(call.fires("session_limit")) == []
    assert said(call.played()).ends == "time_limit"


def test_a_conversation_that_nobody_came_to_ends_with_its_time(converse) -> None:
    """There is nobody to say goodbye to."""
    call = converse("IDLE", goodbye={"after_ms": 9_000}).fires("session_limit")
    assert done(call) == [cancels("reconnect"), SetMicrophone("closed"), CloseSession(reason="time_limit")]
    assert the(call, SessionEnded).reason == "time_limit"


def test_the_time_of_a_conversation_goes_on_under_a_new_owner(converse) -> None:
    """It is the user's time."""
    call = converse("LISTENING", goodbye={"after_ms": 9_000}).at(5_000).resumes("incarnation-2")
    assert due_ms(call, "session_limit") == 9_000


# Failures in a row.


def fails_to_answer(call, how: str):
    call.says("hello")
    return call.fails("AnswerQuestion") if how == "failed" else call.fires("answer_deadline")


@pytest.mark.parametrize("how", ["failed", "late"])
def test_after_three_failed_answers_in_a_row_the_conversation_ends(converse, how: str) -> None:
    """With words of its own; until then the user is asked to try again."""
    call = converse("LISTENING", deadlines={"intent_ms": 9_000})
    for number in (1, 2):
        fails_to_answer(call, how)
        assert (call.state.answer_failures, said(call).text, said(call).ends) == (number, Policy().fallback.answer, "")
        call.speaks().played()
    fails_to_answer(call, how)
    assert (said(call).text, said(call).ends) == (LAST_WORDS, "too_many_failures")
    assert the(call, ProcessingComplete).ends == "too_many_failures"
    assert refused(call.says("wait")) == "these are the last words of the conversation"
    assert the(call.speaks().played(), SessionEnded).reason == "too_many_failures"


@pytest.mark.parametrize(("limit", "ends"), [(0, ""), (1, "too_many_failures"), (2, "")])
def test_the_policy_says_how_many_failures_are_too_many(converse, limit: int, ends: str) -> None:
    """None are, where it says 0."""
    fallback = {"failures": limit, "answer": "Again?", "goodbye": "Sorry."}
    call = fails_to_answer(converse("LISTENING", fallback=fallback), "failed")
    assert (said(call).text, said(call).ends) == ("Sorry." if ends else "Again?", ends)


def test_more_failures_than_too_many_are_too_many(converse) -> None:
    """The user added something before the last words could be spoken, and that failed too."""
    call = converse("THINKING", fallback={"failures": 1}).input(SpeechStarted).fails("AnswerQuestion")
    assert (call.state.phase, the(call, ProcessingComplete).ends) == ("THINKING", "too_many_failures")
    call.says("and tomorrow?").fails("AnswerQuestion")
    assert (call.state.answer_failures, said(call).ends) == (2, "too_many_failures")


def test_an_answer_ends_the_row(converse) -> None:
    """Even one that is never spoken."""
    call = fails_to_answer(converse("LISTENING", fallback={"failures": 2}), "failed").speaks().played()
    call.says("hello").answers("Hi!").interrupts().fires("interrupt_pause")
    assert call.state.answer_failures == 0
    assert said(fails_to_answer(call, "failed")).ends == ""


def test_an_intent_or_a_filler_that_fails_is_no_failure_of_an_answer(converse) -> None:
    """The conversation goes on without them."""
    call = converse("THINKING", filler={"delay_ms": 0, "text": "Hm."}, fallback={"failures": 1})
    call.fails("ClassifyIntent").fails("PlayFiller")
    assert (call.state.answer_failures, call.state.speech_failures) == (0, 0)
    call.says("hello there").fires("intent_deadline")
    assert (call.state.answer_failures, call.state.speech_failures) == (0, 0)


@pytest.mark.parametrize("how", ["failed", "tts_deadline", "playback_deadline"])
def test_after_three_failures_of_speech_in_a_row_the_conversation_ends(converse, how: str) -> None:
    """Without words: they would not be heard either."""
    call = converse("LISTENING")
    for number in (1, 2, 3):
        call.says("hello").answers("Hi!")
        if how == "playback_deadline":
            call.input(TtsChunkReady, index=0, duration_ms=100)
        call = call.fails("Speak") if how == "failed" else call.fires(how)
        assert call.state.speech_failures == number
        assert call.state.phase == ("ENDED" if number == 3 else "LISTENING")
    assert the(call, SessionEnded).reason == "too_many_failures"
    assert done(call)[-2:] == [SetMicrophone("closed"), CloseSession(reason="too_many_failures")]
    assert [event.outcome for event in call.last if isinstance(event, TurnEnded)] == ["failed"]


def test_speech_that_was_heard_to_its_end_ends_the_row(converse) -> None:
    """An interrupted one says nothing about it."""
    call = converse("LISTENING", fallback={"failures": 2}).says("one").answers("1").fails("Speak")
    call.says("two").answers("2").speaks().interrupts().fires("interrupt_pause")
    assert call.state.speech_failures == 1
    call.says("three").answers("3").speaks().played()
    assert call.state.speech_failures == 0
    assert call.says("four").answers("4").fails("Speak").state.phase == "LISTENING"


def test_speech_may_fail_for_ever_where_the_policy_says_so(converse) -> None:
    """A client that reads does not miss it."""
    call = converse("LISTENING", fallback={"failures": 0})
    for _ in range(5):
        call.says("hello").answers("Hi!").fails("Speak")
    assert call.state.phase == "LISTENING"


def test_last_words_that_fail_keep_their_reason(converse) -> None:
    """The conversation ends as it was going to."""
    call = converse("LISTENING", goodbye={"after_ms": 2_000}, fallback={"failures": 1}).fires("session_limit")
    call.fails("Speak")
    assert the(call, SessionEnded).reason == "time_limit"


def test_the_end_of_a_filler_says_nothing_about_speech(converse) -> None:
    """It ends no row of failures."""
    call = converse("LISTENING", filler={"delay_ms": 0, "text": "Hm."}).says("one").answers("1").fails("Speak")
    assert call.says("two").played().state.speech_failures == 1


# What begins together with them.


def test_partials_of_a_text_client_do_not_keep_it_from_being_greeted(converse) -> None:
    """Nobody was heard to speak."""
    call = converse("LISTENING", greeting=GREETING).input(SttPartial, text="hel").fires("greeting")
    assert call.state.phase == "SPEAKING"
