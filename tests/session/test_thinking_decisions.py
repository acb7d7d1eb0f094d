"""Shows the join of intent and answer, its deadlines and failures, and the filler."""

import pytest
from glance import arms, cancels, done, refused, the, timers

from events.derived import CommandIssued, ProcessingComplete, TurnEnded, TurnStarted
from events.inputs import (
    BargeIn,
    HandlerAttached,
    HandlerDetached,
    IntentResolved,
    PlaybackDone,
    PlaybackStarted,
    ProviderSwitched,
    RagAnswered,
    SpeechStarted,
    SpeechStopped,
    SttPartial,
    TtsChunkReady,
    TtsComplete,
)
from orchestrator.session.commands import (
    AnswerQuestion,
    CancelStage,
    CancelTask,
    ClassifyIntent,
    PlayFiller,
    SetMicrophone,
    Speak,
    StopPlayback,
)
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation

FILLER = {"delay_ms": 0, "text": "One moment."}
SORRY = Policy().fallback.answer


def complete(call) -> ProcessingComplete:
    (event,) = (event for event in call.last if isinstance(event, ProcessingComplete))
    return event


def test_without_an_intent_service_only_the_answer_is_asked_for(converse) -> None:
    """`intent.skip`: no request, no deadline, nothing to wait for."""
    call = converse("THINKING", intent={"skip": True})
    assert not any(isinstance(command, ClassifyIntent) for command in call.commands)
    assert call.state.timer("intent_deadline") is None
    call.after(300).input(RagAnswered, answer="Hi!", elapsed_us=300_000)
    assert call.state.phase == "SPEAKING"
    assert (complete(call).intent, complete(call).saved_us) == ("", 0)


def test_a_late_intent_is_gone_without(converse) -> None:
    """Its request is withdrawn; the answer is still awaited."""
    call = converse("THINKING")
    asked = call.outstanding("ClassifyIntent").command_id
    call.fires("intent_deadline")
    assert call.commands == [CancelStage(command_id=asked, stage_name="intent")]
    assert call.state.phase == "THINKING"
    assert call.input(RagAnswered, answer="Hi!").state.phase == "SPEAKING"


def test_an_answer_that_waits_for_a_late_intent_is_spoken_at_its_deadline(converse) -> None:
    """The turn waits for the slower of both, within its deadline."""
    call = converse("THINKING").input(RagAnswered, answer="Hi!").fires("intent_deadline")
    assert call.state.phase == "SPEAKING"
    assert (complete(call).answer, complete(call).intent, complete(call).fallback) == ("Hi!", "", "")


@pytest.mark.parametrize("with_intent", [False, True])
def test_a_late_answer_speaks_the_fallback(converse, with_intent: bool) -> None:
    """What is still outstanding is withdrawn, and the phase says why."""
    call = converse("THINKING", deadlines={"intent_ms": 9_000})
    if with_intent:
        call.input(IntentResolved, intent="greeting")
    call.fires("answer_deadline")
    assert call.golden[-1] == "[auto_session_12345] 🔴 SPEAKING (answer_deadline)"
    assert (complete(call).answer, complete(call).fallback) == (SORRY, "answer_deadline")
    assert complete(call).intent == ("greeting" if with_intent else "")
    withdrawn = [command.stage_name for command in call.commands if isinstance(command, CancelStage)]
    assert withdrawn == ["answer"] if with_intent else ["intent", "answer"]
    assert {command.name for command in call.state.pending.values()} == {"Speak", "StartTimer"}


@pytest.mark.parametrize("how", ["late", "failed"])
def test_nothing_of_the_services_is_waited_for_after_the_fallback(converse, how: str) -> None:
    """Neither result nor deadline."""
    call = converse("THINKING", deadlines={"answer_ms": 900}, filler={"delay_ms": 700, "text": "One moment."})
    call = call.fails("AnswerQuestion") if how == "failed" else call.fires("answer_deadline")
    assert timers(call) == {"tts_deadline"}
    assert [command.name for command in call.state.outstanding("ClassifyIntent", "AnswerQuestion")] == []


def test_the_first_result_withdraws_its_own_deadline_alone(converse) -> None:
    """The other half is still awaited."""
    assert done(converse("THINKING").input(IntentResolved, intent="x")) == [cancels("intent_deadline")]
    assert done(converse("THINKING").input(RagAnswered, answer="Hi!")) == [cancels("answer_deadline")]
    assert done(converse("THINKING").fails("ClassifyIntent")) == [cancels("intent_deadline")]


def test_a_failed_answer_speaks_the_fallback(converse) -> None:
    """At once: there is nothing to wait for."""
    call = converse("THINKING").fails("AnswerQuestion", "503 from the answer service")
    assert call.golden[-1] == "[auto_session_12345] 🔴 SPEAKING (service_failed)"
    assert Speak(ends="", from_ms=0, playback_id="answer-1", text=SORRY) in call.commands


def test_a_failed_intent_is_gone_without(converse) -> None:
    """Before the answer it is one thing less to wait for; after it, it completes the processing."""
    assert converse("THINKING").fails("ClassifyIntent").input(RagAnswered, answer="Hi!").state.phase == "SPEAKING"
    call = converse("THINKING").input(RagAnswered, answer="Hi!").fails("ClassifyIntent")
    assert (complete(call).answer, complete(call).intent) == ("Hi!", "")


def test_the_saved_time_never_exceeds_the_turn(converse) -> None:
    """A service's own clock is evidence only."""
    call = converse("THINKING").after(100).input(IntentResolved, intent="x", elapsed_us=2**53)
    call.after(200).input(RagAnswered, answer="Hi!", elapsed_us=2**53)
    assert (complete(call).elapsed_us, complete(call).saved_us) == (300_000, 300_000)


def test_a_filler_plays_while_thinking_under_its_own_playback(converse) -> None:
    """It is said before the services are asked, and counts for nothing in the answer."""
    call = converse("THINKING", filler=FILLER)
    assert [command for command in call.commands if isinstance(command, PlayFiller | AnswerQuestion)] == [
        PlayFiller(playback_id="filler-1", text="One moment."),
        AnswerQuestion(conversation_to=call.last[0].version - 1, speculation=0, text="hello"),
    ]
    for kind, said in ((TtsChunkReady, {"index": 0, "duration_ms": 900}), (PlaybackStarted, {}), (TtsComplete, {})):
        if kind is TtsComplete:
            said = {"chunks": 1, "duration_ms": 900}
        assert call.input(kind, **said).commands == []
    assert call.state.playback is None


def test_the_end_of_a_filler_ends_nothing(converse) -> None:
    """Neither does its failure, but what is queued of it must not be heard."""
    for end, commands in (
        (lambda call: call.input(PlaybackDone, confirmed_by="client"), []),
        (lambda call: call.fails("PlayFiller"), [StopPlayback(playback_id="filler-1")]),
    ):
        call = converse("THINKING", filler=FILLER)
        end(call)
        assert call.state.phase == "THINKING"
        assert call.commands == commands
        assert not call.state.outstanding("PlayFiller")


def test_a_filler_is_stopped_before_the_answer_is_spoken(converse) -> None:
    """Its end, when it is reported late, must not end the answer."""
    call = converse("THINKING", filler=FILLER)
    filler = call.outstanding("PlayFiller")
    call.answers("Hi!")
    assert call.commands.index(StopPlayback(playback_id="filler-1")) < [type(c) for c in call.commands].index(Speak)
    call.input(PlaybackDone, command_id=filler.command_id, playback_id="filler-1", confirmed_by="client")
    assert call.state.phase == "SPEAKING"
    assert call.last[-1].reason == "stale: its command is not outstanding"


@pytest.mark.parametrize("playback_id", ["", "filler-1"])
def test_a_barge_in_silences_the_filler(converse, playback_id: str) -> None:
    """The user wants the floor; the turn goes on until they have said something."""
    call = converse("THINKING", filler=FILLER).input(BargeIn, playback_id=playback_id)
    assert call.commands == [StopPlayback(playback_id="filler-1")]
    assert call.state.phase == "THINKING"


def test_a_barge_in_on_another_playback_leaves_the_filler_alone(converse) -> None:
    """It is about the answer before."""
    call = converse("THINKING", filler=FILLER).input(BargeIn, playback_id="answer-0")
    assert call.last[-1].reason == "stale: names a playback that is not playing"
    assert call.state.outstanding("PlayFiller")


def test_superseding_stops_the_filler_and_starts_the_next(converse) -> None:
    """Each turn has a filler of its own."""
    call = converse("THINKING", filler=FILLER).says("no, wait")
    assert call.commands[0] == StopPlayback(playback_id="filler-1")
    assert [command.target for command in call.state.outstanding("PlayFiller")] == ["filler-2"]


def test_the_answer_is_not_spoken_over_a_user_who_speaks(converse) -> None:
    """Onset in THINKING: the answer waits; the new words start the turn over."""
    call = converse("THINKING").input(SpeechStarted).answers("stale")
    assert call.state.phase == "THINKING"
    assert call.golden[-1].endswith("Processing complete in 0ms")
    call.input(SpeechStopped).fires("endpoint").says("no wait")
    assert call.state.task.text == "hello no wait"
    assert not call.state.timer("floor_deadline")


@pytest.mark.parametrize("end", ["empty", "missing", "too long"])
def test_an_answer_that_waited_is_spoken_when_the_user_said_nothing(converse, end: str) -> None:
    """A cough, a recogniser that says nothing, or somebody who never stops: the answer waits no longer."""
    call = converse("THINKING").input(SpeechStarted).answers("Hi!")
    if end == "too long":
        call.fires("floor_deadline")
    else:
        call.input(SpeechStopped).fires("endpoint")
        assert call.state.phase == "THINKING"
        if end == "empty":
            call.says("")
        else:
            call.fires("stt_deadline")
    assert call.state.phase == "SPEAKING"


def test_an_empty_final_that_nobody_waited_for_is_rejected(converse) -> None:
    """While the answer waits for somebody who is still speaking, an empty final of something else changes nothing."""
    call = converse("THINKING").input(SpeechStarted).answers("Hi!").says("")
    assert call.last[-1].reason == "empty text"
    assert call.state.phase == "THINKING"


def test_silence_that_nobody_waited_for_changes_nothing(converse) -> None:
    """A recogniser that understood nothing while the services are still asked: they go on."""
    call = converse("THINKING").input(SpeechStarted).input(SpeechStopped).fires("endpoint").fires("stt_deadline")
    assert call.state.phase == "THINKING"
    assert call.commands == []


def merging(converse, **policy):
    """THINKING about "hello", which was said at 1,000 ms."""
    return converse("THINKING", **policy).at(1_200)


def test_more_words_join_the_utterance(converse) -> None:
    """The first turn was begun too early: it gives its words to the next, which asks about all of them."""
    call = merging(converse).says("are you open")
    assert the(call, TurnEnded).outcome == "merged"
    started = the(call, TurnStarted)
    assert (started.text, started.via, started.turn, started.speculation) == ("hello are you open", "speech", 2, 0)
    assert done(call) == [
        CancelTask(),
        cancels("intent_deadline"),
        cancels("answer_deadline"),
        SetMicrophone("gated"),
        ClassifyIntent(speculation=0, text="hello are you open"),
        AnswerQuestion(conversation_to=call.last[0].version - 1, speculation=0, text="hello are you open"),
        arms("intent_deadline", 2_200),
        arms("answer_deadline", 5_200),
    ]
    assert call.says("today").state.task.text == "hello are you open today"


def test_the_timers_of_a_turn_end_with_it(converse) -> None:
    """They are withdrawn before the turn is over, and the next turn arms its own."""
    call = converse("THINKING", filler={"delay_ms": 900, "text": "One moment."}).after(100).says("are you open")
    before = call.last[: call.last.index(the(call, TurnEnded))]
    withdrawn = {event.target for event in before if isinstance(event, CommandIssued) and event.name == "CancelTimer"}
    assert withdrawn == timers(call) == {"filler", "intent_deadline", "answer_deadline"}


def test_a_policy_may_let_more_words_replace_the_utterance(converse) -> None:
    """Then the first turn was superseded."""
    call = merging(converse, thinking={"more_words": "supersede"}).says("are you open")
    assert (the(call, TurnEnded).outcome, the(call, TurnStarted).text) == ("superseded", "are you open")


@pytest.mark.parametrize(("first", "then"), [("speech", "text"), ("text", "speech"), ("text", "text")])
def test_typed_words_are_a_question_of_their_own(converse, first: str, then: str) -> None:
    """They join nothing, and nothing joins them."""
    call = converse("LISTENING").says("hello", via=first).says("are you open", via=then)
    assert (the(call, TurnEnded).outcome, the(call, TurnStarted).text) == ("superseded", "are you open")
    assert the(call, TurnStarted).via == then


@pytest.mark.parametrize(
    ("first", "then", "all_words"),
    [
        *[("I want", "I want a table", "I want a table"), ("I want", "I want, a table.", "I want, a table.")],
        *[("hello", "Hello!", "Hello!"), ("a table", "I want a table", "a table I want a table")],
        *[("no", "not today", "no not today"), ("I", "in London", "I in London"), ("book", "books", "book books")],
    ],
)
def test_words_that_repeat_the_utterance_and_go_on_are_all_of_it(converse, first, then: str, all_words: str) -> None:
    """A recogniser that begins where the utterance began; word by word, not letter by letter."""
    assert converse("LISTENING").says(first).says(then).state.task.text == all_words


def test_what_is_joined_is_no_longer_than_an_utterance_may_be(converse) -> None:
    """The end is cut off, and no blank is left there."""
    call = converse("LISTENING").says("x" * 7_998).says("a y")
    assert call.state.task.text == "x" * 7_998 + " a"
    call = converse("LISTENING").says("x" * 7_999).says("y")
    assert call.state.task.text == "x" * 7_999
    assert converse("LISTENING").says("x").says("y" * 8_000).state.task.text == "x " + "y" * 7_998


def test_more_words_join_an_utterance_whose_answer_waits(converse) -> None:
    """It is not spoken any more."""
    call = merging(converse).input(SpeechStarted).answers("Hi!").says("are you open")
    assert done(call)[:2] == [CancelTask(), cancels("floor_deadline")]
    assert (call.state.task.text, call.state.task.found.answer) == ("hello are you open", None)


def test_words_whose_final_is_missing_join_the_utterance_too(converse) -> None:
    """The last partial counts as if it had been final."""
    call = merging(converse).input(SpeechStarted).input(SttPartial, text=" are you open ").input(SpeechStopped)
    call.fires("endpoint").fires("stt_deadline")
    assert call.state.task.text == "hello are you open"


def test_the_filler_waits_whether_the_answer_comes_soon(converse) -> None:
    """It is started before the services are asked, and withdrawn when both have answered."""
    call = converse("THINKING", filler={"delay_ms": 700, "text": "One moment."})
    assert done(call)[1:3] == [arms("filler", 1_700), ClassifyIntent(speculation=0, text="hello")]
    assert not call.state.outstanding("PlayFiller")
    call.answers("Hi!")
    assert cancels("filler") in done(call)
    assert StopPlayback(playback_id="filler-1") not in done(call)


def test_an_answer_that_takes_a_while_is_bridged_by_the_filler(converse) -> None:
    """When its time has come."""
    call = converse("THINKING", filler={"delay_ms": 700, "text": "One moment."}).fires("filler")
    assert call.now_us == 1_700_000
    assert done(call) == [PlayFiller(playback_id="filler-1", text="One moment.")]


def test_without_a_text_there_is_no_filler(converse) -> None:
    """However long it would take."""
    call = converse("THINKING", filler={"delay_ms": 0, "text": ""})
    assert not call.state.outstanding("PlayFiller")
    assert timers(call) == {"intent_deadline", "answer_deadline"}


@pytest.mark.parametrize("waits_for", ["speech", "endpoint", "final"])
def test_a_filler_is_not_said_to_a_user_who_is_speaking(converse, waits_for: str) -> None:
    """Or may go on, or is still being understood; nor is it said later."""
    call = converse("THINKING", filler={"delay_ms": 100, "text": "One moment."}).input(SpeechStarted)
    if waits_for != "speech":
        call.input(SpeechStopped)
    if waits_for == "final":
        call.fires("endpoint")
    assert done(call.fires("filler")) == []
    assert "filler" not in timers(call)


def test_a_filler_without_delay_is_not_said_to_a_user_who_is_speaking_either(converse) -> None:
    """Their words were complete for the watchdog, though something is still heard."""
    call = converse("LISTENING", filler=FILLER).input(SpeechStarted).input(SttPartial, text="when are you open")
    call.fires("endpoint").fires("stt_deadline")
    assert (call.state.phase, call.state.user_is_speaking) == ("THINKING", True)
    assert not call.state.outstanding("PlayFiller")
    assert "filler" not in timers(call)


def test_a_user_who_goes_on_silences_the_filler(converse) -> None:
    """It stays silent: the answer may be spoken over nobody, but a filler is not worth waiting."""
    call = converse("THINKING", filler=FILLER).input(SpeechStarted)
    assert done(call) == [StopPlayback(playback_id="filler-1")]
    assert not call.state.outstanding("PlayFiller")


def test_the_services_are_bridged_when_one_of_them_was_asked_early(converse) -> None:
    """As long as anything is missing."""
    guess = {"filler": FILLER, "speculation": {"tries": 1}}
    call = converse("LISTENING", **guess).input(SttPartial, text="hello", is_complete=True)
    call.input(RagAnswered, answer="Hi!").says("hello")
    assert PlayFiller(playback_id="filler-1", text="One moment.") in done(call)
    call = converse("LISTENING", **guess).input(SttPartial, text="hello", is_complete=True)
    call.input(IntentResolved, intent="x").says("hello")
    assert PlayFiller(playback_id="filler-1", text="One moment.") in done(call)
    call = converse("LISTENING", **guess).input(SttPartial, text="hello", is_complete=True)
    assert not [c for c in done(call.answers("Hi!").says("hello")) if isinstance(c, PlayFiller)]


def test_an_answer_waits_for_the_floor(converse) -> None:
    """What is complete is said so; the answer is spoken when the time for the user is over."""
    call = merging(converse, deadlines={"floor_ms": 700}).input(SpeechStarted).answers("Hi!")
    assert done(call) == [cancels("answer_deadline"), arms("floor_deadline", 1_900)]
    assert (the(call, ProcessingComplete).elapsed_us, call.state.task.is_processed) == (200_000, True)
    assert done(call.fires("floor_deadline")) == [
        SetMicrophone("gated"),
        Speak(ends="", from_ms=0, playback_id="answer-1", text="Hi!"),
        arms("tts_deadline", 4_900 + 2_000),
    ]
    assert call.golden[-1] == "[auto_session_12345] 🔴 SPEAKING"


def test_an_answer_that_waited_for_nothing_withdraws_the_wait(converse) -> None:
    """The recogniser has said that there were no words."""
    call = merging(converse).input(SpeechStarted).answers("Hi!").input(SpeechStopped).fires("endpoint").says("")
    assert done(call)[:2] == [cancels("stt_deadline"), cancels("floor_deadline")]
    assert call.state.phase == "SPEAKING"


@pytest.mark.parametrize("end", ["empty", "missing"])
def test_an_answer_that_waits_is_not_spoken_over_a_user_whom_the_watchdog_interrupted(converse, end: str) -> None:
    """Nothing was understood until now, but they still speak: the answer waits for the floor."""
    call = converse("THINKING").input(SpeechStarted).input(SttPartial, text="uh").answers("Hi!").fires("endpoint")
    call = call.input(SttPartial, text=" ") if end == "missing" else call
    call = call.says("") if end == "empty" else call.fires("stt_deadline")
    assert call.state.phase == "THINKING"
    assert call.fires("floor_deadline").state.phase == "SPEAKING"


def test_an_empty_final_that_nobody_waited_for_gives_the_floor_to_nobody(converse) -> None:
    """The user's voice is gone, so the answer waits for no more than its time; what is rejected has no effect."""
    call = converse("THINKING").input(HandlerAttached, handler_id="fastrtc_1").input(SpeechStarted).answers("Hi!")
    call.input(HandlerDetached, handler_id="fastrtc_1").says("")
    assert (call.state.phase, refused(call), done(call)) == ("THINKING", "empty text", [])


def test_a_turn_waits_for_no_utterance_before_it(converse) -> None:
    """Words that were held begin it, though the final of others was waited for, or a guess."""
    call = converse("INTERRUPT", interruption={"pause_ms": 9_000}).says("stop").input(SpeechStarted)
    call.input(SpeechStopped).fires("endpoint").fires("interrupt_pause")
    assert timers(call) == {"intent_deadline", "answer_deadline"}
    call = converse("LISTENING", speculation={"stable_ms": 900, "tries": 1}).input(SpeechStarted)
    call.input(SttPartial, text="hello")
    assert "stable" in timers(call)
    assert timers(call.says("hello")) == {"intent_deadline", "answer_deadline"}


def test_a_fallback_waits_for_the_floor_too(converse) -> None:
    """And is spoken as what it is."""
    call = merging(converse).input(SpeechStarted).fails("AnswerQuestion")
    assert (call.state.phase, the(call, ProcessingComplete).fallback) == ("THINKING", "service_failed")
    call.fires("floor_deadline")
    assert [c.text for c in call.commands if isinstance(c, Speak)] == [SORRY]


def test_a_barge_in_into_thinking_without_a_filler_is_taken_note_of(converse) -> None:
    """There is nothing to silence, and nothing wrong with it, unless it names a playback."""
    call = converse("THINKING").interrupts()
    assert (done(call), refused(call)) == ([], "")
    assert refused(call.input(BargeIn, playback_id="answer-1")) == "stale: names a playback that is not playing"


def test_what_the_services_needed_one_after_the_other_saved_nothing(converse) -> None:
    """The turn took longer than both together; time is never saved backwards."""
    call = converse("THINKING").after(100).input(IntentResolved, intent="x", elapsed_us=20_000)
    call.after(200).input(RagAnswered, answer="Hi!", elapsed_us=30_000)
    assert (complete(call).elapsed_us, complete(call).saved_us) == (300_000, 0)


def test_a_turn_that_is_joined_is_measured_from_its_own_beginning(converse) -> None:
    """The user went on speaking; that is not the services' time."""
    call = merging(converse).says("are you open").at(1_500).answers("Yes.")
    assert complete(call).elapsed_us == 300_000


def test_a_switch_of_providers_changes_nothing() -> None:
    """It is in the log, for readers: nothing follows from it, in any phase."""
    for phase in ("LISTENING", "THINKING", "SPEAKING"):
        call = Conversation.in_phase(phase)
        before = call.state
        call.input(ProviderSwitched, service="answer", provider="second", reason="first is down")
        assert [event.type for event in call.last] == ["PROVIDER_SWITCHED"]
        assert (call.state.phase, call.state.pending) == (before.phase, before.pending)
        call.check()
