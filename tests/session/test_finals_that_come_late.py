"""Words that counted as a partial transcript, because no final came in time, count once when their final comes."""

from typing import Any

import pytest

from events.derived import EventRejected, TurnStarted
from events.envelope import Input
from events.inputs import (
    HandlerAttached,
    HearingFailed,
    RagAnswered,
    SessionOpened,
    SpeechStarted,
    SpeechStopped,
    SttPartial,
)
from orchestrator.replay.fold_on import upgraded
from orchestrator.session.policy import Policy
from orchestrator.session.state import STATE_SCHEMA
from orchestrator.testing.conversation import Conversation

WORDS = "book a table for two"
AWAY = {"after_ms": 5_000, "prompts": 0, "text": "Are you there?"}
BYE = {"intent": "bye", "text": "Goodbye."}


def counted(schema: int = STATE_SCHEMA, **policy: Any) -> Conversation:
    """A turn began with the words of a partial: three seconds after the end of the utterance, no final had come."""
    opening = Policy.model_validate(policy).recorded()
    call = Conversation().input(SessionOpened, policy=opening, state_schema=schema).connects()
    call.input(HandlerAttached, handler_id="fastrtc_1").after(100).input(SpeechStarted).after(900)
    call.input(SttPartial, text=WORDS).after(200).input(SpeechStopped).fires("endpoint").fires("stt_deadline")
    assert turns(call) == [WORDS]
    return call


def turns(call: Conversation) -> list[str]:
    return [event.text for event in call.log if isinstance(event, TurnStarted)]


def why_rejected(call: Conversation) -> list[str]:
    return [event.reason for event in call.last if isinstance(event, EventRejected)]


@pytest.mark.parametrize("phase", ["THINKING", "SPEAKING", "LISTENING"])
def test_the_same_words_are_not_asked_about_again(phase: str) -> None:
    """Whatever has happened since: a tool has run, the agent speaks, or its short answer is over."""
    call = counted()
    if phase == "THINKING":
        call.calls("book").returns('"table 7"')
    else:
        call.answers("Table seven.").speaks(chunks=1, chunk_ms=400)
        if phase == "LISTENING":
            call.played()
    assert call.state.phase == phase
    call.says("Book a table for two.")
    assert why_rejected(call) == ["its words have counted already"]
    assert (call.state.phase, turns(call)) == (phase, [WORDS])
    call.check()


def test_a_partial_that_comes_late_does_not_interrupt_the_answer() -> None:
    """It is of the question that is being answered. One with more words is not."""
    call = counted().answers("Table seven is free.").speaks(chunks=3, chunk_ms=400)
    assert call.input(SttPartial, text=WORDS).state.phase == "SPEAKING"
    assert call.input(SttPartial, text=f"{WORDS} on sunday").state.phase == "INTERRUPT"
    call.check()


@pytest.mark.parametrize(
    ("earlier", "final", "question"),
    [
        ("", "Book a table for ten.", "Book a table for ten."),
        ("good evening", "Book a table for ten.", "good evening Book a table for ten."),
        ("", f"{WORDS} on sunday", f"{WORDS} on sunday"),
    ],
)
def test_a_final_with_other_words_corrects_the_question(earlier: str, final: str, question: str) -> None:
    """It replaces the words of its partial, and nothing that was said before them."""
    if not earlier:
        call = counted()
    else:
        call = Conversation.listening(policy=Policy()).says(earlier).after(100).input(SpeechStarted).after(900)
        call.input(SttPartial, text=WORDS).input(SpeechStopped).fires("endpoint").fires("stt_deadline")
    call.after(500).says(final)
    assert call.state.phase == "THINKING"
    assert turns(call)[-1] == question
    call.check()


def test_what_the_user_says_next_is_not_taken_for_the_final() -> None:
    """Nor are the same words, said again: the agent may have misunderstood."""
    for words, question in (("on sunday", f"{WORDS} on sunday"), (WORDS, WORDS)):
        call = counted().after(200).input(SpeechStarted).after(500).input(SpeechStopped).fires("endpoint").says(words)
        assert turns(call) == [WORDS, question]
        call.check()


@pytest.mark.parametrize("phase", ["THINKING", "SPEAKING", "LISTENING"])
def test_a_sound_of_the_user_does_not_make_their_words_new(phase: str) -> None:
    """No final is due of what they begin to say: this one is of the words before, which have counted."""
    call = counted()
    if phase != "THINKING":
        call.answers("Table seven is yours. Anything else?").speaks(chunks=3, chunk_ms=400)
        if phase == "LISTENING":
            call.played()
    call.after(200).input(SpeechStarted).after(300).says(WORDS)
    assert why_rejected(call) == ["its words have counted already"]
    assert turns(call) == [WORDS]
    call.check()


def test_words_without_a_silence_before_them_are_not_a_correction() -> None:
    """In noise the voice detector never falls silent: nobody knows whether the final is of the words that counted."""
    call = Conversation.listening(policy=Policy()).input(HandlerAttached, handler_id="fastrtc_1").after(100)
    call.input(SpeechStarted).after(900).input(SttPartial, text=WORDS).fires("endpoint").fires("stt_deadline")
    call.after(500).says("tomorrow at noon")
    assert turns(call) == [WORDS, f"{WORDS} tomorrow at noon"]
    call.check()


def test_nothing_of_a_late_final_is_left_behind() -> None:
    """Neither its partial, which a sound over the next answer would confirm, nor that the user speaks."""
    call = counted().input(SttPartial, text=f"{WORDS}!").says(WORDS)
    assert (call.state.partial_text, call.state.user_is_speaking) == ("", False)
    call.answers("Table seven is yours.").speaks(chunks=3, chunk_ms=400).after(100).input(SpeechStarted)
    assert call.fires("barge_in").state.phase == "INTERRUPT"
    call.fires("interrupt_pause").input(SpeechStopped).fires("endpoint").fires("stt_deadline")
    assert turns(call) == [WORDS]


@pytest.mark.parametrize("phase", ["THINKING", "SPEAKING", "LISTENING"])
def test_the_finals_of_two_utterances_come_in_their_order(phase: str) -> None:
    """The first is late, and the user has finished another utterance: each final belongs to its own."""
    call = counted()
    if phase != "THINKING":
        call.answers("Table seven is yours. Anything else?").speaks(chunks=9, chunk_ms=400)
        if phase == "LISTENING":
            call.played()
    call.after(100).input(SpeechStarted).after(300).input(SttPartial, text="thanks a lot").after(100)
    call.input(SpeechStopped).fires("endpoint").after(200).says("Book a table for two.")
    assert (call.state.phase, turns(call)) == (phase, [WORDS])
    assert call.state.partial_text == "thanks a lot"
    call.says("Thanks a lot.")
    if phase == "SPEAKING":
        call.fires("interrupt_pause")
    assert turns(call)[-1] == ("Thanks a lot." if phase != "THINKING" else f"{WORDS} Thanks a lot.")
    call.check()


def test_a_late_final_takes_nothing_from_words_that_are_being_said() -> None:
    """Their partial stays, and counts if no final comes."""
    call = counted().answers("Table seven.").speaks().played().after(100).input(SpeechStarted).after(300)
    call.input(SttPartial, text="cancel the taxi").after(100).says(WORDS).input(SpeechStopped)
    call.fires("endpoint").fires("stt_deadline")
    assert turns(call) == [WORDS, "cancel the taxi"]
    call.check()


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_late_partial_is_no_question_of_its_own(is_answered: bool) -> None:
    """Neither by the deadline of a cough, nor in noise, in which the voice detector never falls silent."""
    call = counted().input(SttPartial, text="Book a table for two!")
    assert call.state.partial_text == ""
    if is_answered:
        call.answers("Table seven.").speaks().played().input(SttPartial, text="Book a table for two!")
    call.after(100).input(SpeechStarted).after(200).input(SpeechStopped).fires("endpoint").fires("stt_deadline")
    assert turns(call) == [WORDS]
    noise = Conversation.listening(policy=Policy()).input(HandlerAttached, handler_id="fastrtc_1").after(100)
    noise.input(SpeechStarted).after(900).input(SttPartial, text=WORDS).fires("endpoint").fires("stt_deadline")
    noise.input(SttPartial, text=f"{WORDS}!")
    assert not noise.state.armed("endpoint")
    call.check()


def test_a_partial_after_its_own_final_does_not_interrupt() -> None:
    """A second recogniser, or a slow network, brings it while the agent answers."""
    call = Conversation.listening(policy=Policy()).input(HandlerAttached, handler_id="fastrtc_1").after(100)
    call.input(SpeechStarted).after(900).input(SpeechStopped).says(WORDS).answers("Table seven is yours.")
    call.speaks(chunks=3, chunk_ms=400).input(SttPartial, text=WORDS)
    assert call.state.phase == "SPEAKING"
    call.check()


def test_a_partial_that_was_left_over_is_gone_when_the_user_speaks_again() -> None:
    """No timer waits for its utterance any more."""
    call = Conversation.listening(policy=Policy()).input(HandlerAttached, handler_id="fastrtc_1")
    call.input(SttPartial, text="of an outside recogniser").after(100).input(SpeechStarted)
    assert call.state.partial_text == ""


def test_a_final_corrects_words_that_are_held() -> None:
    """As in THINKING: they are not said twice."""
    call = Conversation.listening(policy=Policy.model_validate({"interruption": {"pause_ms": 9_000}}))
    call.says("hello").answers("Hello. How can I help you today?").input(HandlerAttached, handler_id="fastrtc_1")
    call.speaks(chunks=2, chunk_ms=900).input(SpeechStarted).after(600).input(SttPartial, text="cancel my")
    call.input(SpeechStopped).fires("endpoint").fires("stt_deadline").after(100).says("Cancel my order.")
    assert call.state.phase == "INTERRUPT"
    call.fires("interrupt_pause")
    assert turns(call) == ["hello", "Cancel my order."]
    call.check()


def test_a_silent_user_in_noise_is_missed_again() -> None:
    """The farewell is over, a sound goes on: the line is not held for ever."""
    call = Conversation.listening(policy=Policy.model_validate({"away": AWAY}))
    call.input(HandlerAttached, handler_id="fastrtc_1").fires("away").speaks(chunks=1).input(SpeechStarted).played()
    assert call.state.phase == "LISTENING"
    call.fires("away")
    assert call.state.timer("away") is not None
    call.input(SpeechStopped).fires("endpoint").says("").fires("away").speaks(chunks=1).played()
    assert call.state.phase == "ENDED"
    call.check()


def test_words_that_interrupt_late_wait_for_their_final() -> None:
    """And count without it, as all words do."""
    call = counted().answers("Table seven is yours.").speaks(chunks=3, chunk_ms=400)
    call.input(SttPartial, text=f"{WORDS} on sunday")
    assert call.state.phase == "INTERRUPT"
    call.fires("interrupt_pause").fires("stt_deadline")
    assert turns(call) == [WORDS, f"{WORDS} on sunday"]
    call.check()


def test_words_are_not_lost_where_their_time_runs_out_in_the_interruption() -> None:
    """They are held, as a final would be; one that comes afterwards is late."""
    call = Conversation.listening(policy=Policy.model_validate({"interruption": {"pause_ms": 5_000, "min_words": 3}}))
    call.says("hello").answers("Hello. How can I help you today?").input(HandlerAttached, handler_id="fastrtc_1")
    call.speaks(chunks=2, chunk_ms=900).input(SpeechStarted).after(600).input(SttPartial, text="cancel my order please")
    assert call.state.phase == "INTERRUPT"
    call.input(SpeechStopped).fires("endpoint").fires("stt_deadline").fires("interrupt_pause")
    assert turns(call) == ["hello", "cancel my order please"]
    call.says("Cancel my order, please.")
    assert turns(call) == ["hello", "cancel my order please"]
    call.check()


def test_words_over_the_agent_that_are_over_are_not_kept_by_a_later_sound() -> None:
    """The playback ends while the user makes another sound: the backchannel before is no question."""
    call = Conversation.listening(policy=Policy()).says("hello").answers("Hello. How can I help you today?")
    call.input(HandlerAttached, handler_id="fastrtc_1").speaks(chunks=2, chunk_ms=900).input(SpeechStarted)
    call.input(SttPartial, text="uh huh").input(SpeechStopped).fires("endpoint").fires("stt_deadline")
    call.input(SpeechStarted).played().input(SpeechStopped).fires("endpoint").fires("stt_deadline")
    assert turns(call) == ["hello"]


def test_a_final_counts_as_late_once_and_not_for_ever() -> None:
    """The same words of the same recogniser are then said again; so are those that come after `stt_ms`."""
    again = counted().says(WORDS).answers("Table seven.").speaks().played().says(WORDS)
    assert turns(again) == [WORDS, WORDS]
    much_later = counted().answers("Table seven.").speaks().played().after(3_001).says(WORDS)
    assert turns(much_later) == [WORDS, WORDS]


def test_typed_words_are_never_a_late_final() -> None:
    """They are a new question; the spoken ones stay those whose final may come."""
    call = counted().says(WORDS, via="text")
    assert turns(call) == [WORDS, WORDS]
    assert call.state.late_words(call.now_us) == WORDS


def test_nobody_apologises_for_words_that_were_answered() -> None:
    """Speech-to-text gives up after five seconds. By then, the question may be answered."""
    call = counted().answers("Table seven.").speaks().played().says("")
    call.input(HearingFailed, error="no final within 5 s", is_utterance_lost=True)
    assert (call.state.phase, call.state.hearing_failures) == ("LISTENING", 0)
    call.after(10).input(SpeechStarted).input(HearingFailed, error="broke", is_utterance_lost=True)
    assert call.state.hearing_failures == 1
    call.check()


def test_a_new_owner_takes_no_final_for_late() -> None:
    """It has recognisers of its own."""
    call = counted().resumes("incarnation-2").input(HandlerAttached, handler_id="fastrtc_2")
    assert call.state.late_words(call.now_us) == ""


def test_partials_over_the_agent_count_as_nothing_of_their_own() -> None:
    """Only where the words of a partial begin a turn is their final expected."""
    call = Conversation.listening(policy=Policy()).says("hello").answers("Hello. How can I help you today?")
    call.input(HandlerAttached, handler_id="fastrtc_1").speaks(chunks=2, chunk_ms=900).input(SpeechStarted)
    call.input(SttPartial, text="uh huh").input(SpeechStopped).fires("endpoint").fires("stt_deadline")
    assert call.state.late_words(call.now_us) == ""


def test_earlier_recordings_replay_as_they_were_decided() -> None:
    """A session of schema 6 asks twice, as it did then."""
    call = counted(schema=6).says(WORDS)
    assert turns(call) == [WORDS, WORDS]
    call.check()


def test_words_that_interrupt_are_not_lost_without_a_final() -> None:
    """The agent has fallen silent for them; the last partial counts."""
    call = Conversation.listening(policy=Policy()).says("hello").answers("Hello. How can I help you today?")
    call.input(HandlerAttached, handler_id="fastrtc_1").speaks(chunks=2, chunk_ms=900).after(300)
    call.input(SpeechStarted).after(600).input(SttPartial, text="cancel my order").after(100).input(SpeechStopped)
    assert call.state.phase == "INTERRUPT"
    call.fires("interrupt_pause").input(SttPartial, text="cancel my order please")
    call.fires("endpoint").fires("stt_deadline")
    assert turns(call) == ["hello", "cancel my order please"]
    call.check()


def test_words_that_the_answer_ends_under_are_not_lost_without_a_final() -> None:
    """The playback was over before it was clear whether they interrupt."""
    call = Conversation.listening(policy=Policy()).says("hello").answers("Hello.")
    call.input(HandlerAttached, handler_id="fastrtc_1").speaks(chunks=1, chunk_ms=400).input(SpeechStarted)
    call.after(100).input(SttPartial, text="i need").played()
    assert call.state.phase == "LISTENING"
    call.input(SpeechStopped).fires("endpoint").fires("stt_deadline")
    assert turns(call) == ["hello", "i need"]
    call.check()


def test_sounds_over_the_agent_that_are_over_are_forgotten() -> None:
    """A backchannel that did not interrupt begins no turn after the answer."""
    call = Conversation.listening(policy=Policy()).says("hello").answers("Hello. How can I help you today?")
    call.input(HandlerAttached, handler_id="fastrtc_1").speaks(chunks=2, chunk_ms=900).input(SpeechStarted)
    call.input(SttPartial, text="uh huh").input(SpeechStopped).fires("endpoint").fires("stt_deadline").played()
    assert (call.state.phase, call.state.partial_text) == ("LISTENING", "")


@pytest.mark.parametrize(
    ("ends", "partial", "phase"),
    [
        ("user_away", "", "LISTENING"),
        ("user_away", "uh huh", "LISTENING"),
        ("goodbye", "wait one more", "LISTENING"),
        ("goodbye", "uh huh", "ENDED"),
        ("goodbye", "", "ENDED"),
    ],
)
def test_nobody_who_speaks_again_is_hung_up_on(ends: str, partial: str, phase: str) -> None:
    """All of the farewell had been sent when they began, so it could not be paused."""
    call = Conversation.listening(policy=Policy.model_validate({"away": AWAY, "goodbye": BYE}))
    call.input(HandlerAttached, handler_id="fastrtc_1")
    if ends == "user_away":
        call.fires("away")
    else:
        call.says("bye").answers("Goodbye.", intent="bye")
    call.speaks(chunks=1, chunk_ms=900).input(SpeechStarted)
    if partial:
        call.input(SttPartial, text=partial)
    assert call.played().state.phase == phase
    call.check()


def test_the_last_words_of_the_time_limit_end_the_call() -> None:
    """Nothing interrupts them."""
    call = Conversation.listening(policy=Policy.model_validate({"goodbye": {"after_ms": 9_000}}))
    call.input(HandlerAttached, handler_id="fastrtc_1").fires("session_limit").speaks(chunks=1).input(SpeechStarted)
    assert call.played().state.phase == "ENDED"


def test_an_early_session_ends_at_its_farewell() -> None:
    """As it was decided then."""
    opening = Policy.model_validate({"away": AWAY}).recorded()
    call = Conversation().input(SessionOpened, policy=opening, state_schema=6).connects()
    call.input(HandlerAttached, handler_id="fastrtc_1").fires("away").speaks(chunks=1).input(SpeechStarted)
    assert call.played().state.phase == "ENDED"


def test_an_answer_of_a_call_in_the_making_has_time_to_wait_for_it() -> None:
    """The deadline of its first audio is two seconds later while there is no media connection."""
    for schema, wait_ms in ((STATE_SCHEMA, 5_000), (6, 3_000)):
        call = Conversation().input(SessionOpened, policy=Policy().recorded(), state_schema=schema).connects()
        call.says("hello").at(4_000).resolves("greeting").input(RagAnswered, answer="Hi!")
        assert call.outstanding("StartTimer").payload["due_at_us"] == (4_000 + wait_ms) * 1_000


def test_a_converted_recording_keeps_its_decisions() -> None:
    """It is put under the last schema that decided as its session did."""
    call = counted(schema=3).says(WORDS)
    lines = [*upgraded(call.log)]
    assert lines[0].state_schema == 6
    events = [event for event in lines if isinstance(event, Input)]
    again = Conversation()
    for event in events:
        again.put(event)
    assert turns(again) == turns(call) == [WORDS, WORDS]
    assert next(upgraded(counted().log)).state_schema == STATE_SCHEMA
