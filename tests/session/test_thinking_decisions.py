"""Shows the join of intent and answer, its deadlines and failures, and the filler."""

import pytest

from events.derived import ProcessingComplete
from events.inputs import (
    BargeIn,
    IntentResolved,
    PlaybackDone,
    PlaybackStarted,
    RagAnswered,
    SpeechStarted,
    SpeechStopped,
    TtsChunkReady,
    TtsComplete,
)
from orchestrator.session.commands import AnswerQuestion, CancelStage, ClassifyIntent, PlayFiller, Speak, StopPlayback
from orchestrator.session.policy import Policy

FILLER = {"text": "One moment."}
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


def test_a_failed_answer_speaks_the_fallback(converse) -> None:
    """At once: there is nothing to wait for."""
    call = converse("THINKING").fails("AnswerQuestion", "503 from the answer service")
    assert call.golden[-1] == "[auto_session_12345] 🔴 SPEAKING (service_failed)"
    assert Speak(from_ms=0, playback_id="answer-1", text=SORRY) in call.commands


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
        AnswerQuestion(conversation_to=call.last[0].version - 1, text="hello"),
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
    assert call.state.task.text == "no wait"
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
