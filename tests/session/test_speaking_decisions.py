"""Shows an answer being spoken: its chunks, its deadlines, its end, and how it is interrupted."""

import pytest
from glance import arms, cancels, done

from events.derived import AnswerEnded, TurnEnded, UserInterrupted
from events.inputs import (
    BargeIn,
    PlaybackDone,
    PlaybackProgress,
    PlaybackStarted,
    SpeechStarted,
    SttFinal,
    TtsChunkReady,
    TtsComplete,
)
from orchestrator.session.commands import CancelTask, CancelTimer, ClearText, SetMicrophone, StartTimer, StopPlayback

AT_ONCE = {"min_speech_ms": 0, "pause_ms": 50}
INTERRUPTIONS = [(SpeechStarted, {}, "barge_in"), (BargeIn, {}, "barge_in"), (SttFinal, {"text": "stop"}, "user_input")]


def answer(call) -> AnswerEnded:
    (event,) = (event for event in call.last if isinstance(event, AnswerEnded))
    return event


def test_chunks_are_counted(converse) -> None:
    """The first one withdraws the deadline for it; each adds its audio."""
    call = converse("SPEAKING").input(TtsChunkReady, index=0, duration_ms=200)
    assert [type(command) for command in call.commands] == [CancelTimer, StartTimer]
    assert call.state.timer("tts_deadline") is None
    assert call.input(TtsChunkReady, index=1, duration_ms=120).commands == []
    assert (call.state.playback.chunks, call.state.playback.audio_ms) == (2, 320)


def test_the_playback_deadline_follows_the_audio(converse) -> None:
    """What is left to play, estimated until it is known, and some grace; counted anew with each progress."""
    call = converse("SPEAKING").at(2_000).input(TtsChunkReady, index=0, duration_ms=5_000)
    assert call.outstanding("playback_deadline").payload["due_at_us"] == (2_000 + 5_000 + 3_000) * 1_000
    call.input(PlaybackStarted).at(3_000).input(PlaybackProgress, position_ms=1_000)
    assert call.outstanding("playback_deadline").payload["due_at_us"] == (3_000 + 4_000 + 3_000) * 1_000
    call.input(TtsComplete, chunks=1, duration_ms=5_000)
    assert call.outstanding("playback_deadline").payload["due_at_us"] == (3_000 + 4_000 + 3_000) * 1_000


def test_a_playback_that_progresses_slowly_has_its_time(converse) -> None:
    """Each progress counts what is left anew, from the moment it is reported; each chunk does not."""
    call = converse("SPEAKING").at(2_000).input(TtsChunkReady, index=0, duration_ms=5_000).input(PlaybackStarted)
    call.at(4_000).input(PlaybackProgress, position_ms=500)
    assert done(call) == [cancels("playback_deadline"), arms("playback_deadline", 4_000 + 4_500 + 3_000)]
    assert done(call.at(5_000).input(TtsChunkReady, index=1, duration_ms=1_000)) == []
    call.at(5_100).input(TtsComplete, chunks=2, duration_ms=6_000)
    assert done(call) == [cancels("playback_deadline"), arms("playback_deadline", 5_100 + 5_500 + 3_000)]


def test_a_playback_that_is_further_than_its_length_has_the_grace_alone(converse) -> None:
    """Nothing is left of it."""
    call = converse("SPEAKING").at(2_000).input(TtsChunkReady, index=0, duration_ms=1_400)
    call.input(PlaybackProgress, position_ms=1_500)
    assert done(call)[-1:] == [arms("playback_deadline", 5_000)]


def test_an_answer_without_audio_is_waited_for_no_longer_than_the_grace(converse) -> None:
    """A text-to-speech service that completes with nothing leaves nothing to play."""
    call = converse("SPEAKING").at(2_000).input(TtsComplete, chunks=0, duration_ms=0)
    assert call.state.timer("tts_deadline") is None
    assert call.outstanding("playback_deadline").payload["due_at_us"] == 5_000_000


def test_playback_progress_is_remembered(converse) -> None:
    """The highest position counts, and playback starts once."""
    call = converse("SPEAKING").input(TtsChunkReady, index=0, duration_ms=5_000).at(2_000).input(PlaybackStarted)
    assert call.state.playback.position_at_us == 2_000_000
    call.at(3_000).input(PlaybackProgress, position_ms=990).at(3_500).input(PlaybackProgress, position_ms=400)
    call.at(3_600).input(PlaybackStarted)
    assert (call.state.playback.position_ms, call.state.playback.position_at_us) == (990, 3_000_000)


@pytest.mark.parametrize("confirmed_by", ["client", "timer"])
def test_playback_done_returns_to_listening(converse, confirmed_by: str) -> None:
    """The answer was heard to its end; the turn is completed; the microphone is open."""
    call = converse("SPEAKING").speaks(chunks=10, chunk_ms=200).after(2_000)
    call.input(PlaybackDone, confirmed_by=confirmed_by, position_ms=1_990)
    assert (answer(call).outcome, answer(call).chunks, answer(call).heard_ms) == ("finished", 10, 2_000)
    assert answer(call).heard_text == "Hi! How can I help?"
    assert [event.outcome for event in call.last if isinstance(event, TurnEnded)] == ["completed"]
    assert call.commands[1:] == [SetMicrophone("open"), ClearText()]
    assert not call.state.pending


@pytest.mark.parametrize("timer", ["tts_deadline", "playback_deadline"])
def test_an_answer_that_does_not_come_gives_the_floor_back(converse, timer: str) -> None:
    """Nothing hangs: the user may speak again, and the phase says why."""
    call = converse("SPEAKING")
    if timer == "playback_deadline":
        call.speaks(chunks=3)
    call.fires(timer)
    assert call.golden[-1] == f"[auto_session_12345] 🔵 LISTENING ({timer})"
    assert answer(call).outcome == "failed"
    assert call.commands[:2] == [StopPlayback(playback_id="answer-1"), CancelTask()]
    assert not call.state.pending


def test_speech_that_fails_gives_the_floor_back(converse) -> None:
    """SERVICE_FAILED of the synthesis; what was heard until then is kept."""
    call = converse("SPEAKING").input(TtsChunkReady, index=0, duration_ms=5_000).input(PlaybackStarted).after(2_500)
    call.fails("Speak", "connection reset")
    assert call.golden[-1] == "[auto_session_12345] 🔵 LISTENING (service_failed)"
    assert (answer(call).outcome, answer(call).heard_text) == ("failed", "Hi! How")
    assert not call.state.pending


@pytest.mark.parametrize(("kind", "fields", "reason"), INTERRUPTIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_speech_interrupts_speaking(converse, kind: type, fields: dict, reason: str) -> None:
    """Voice, a barge-in or a final: the answer stops, the task is cancelled, a short pause, then LISTENING."""
    call = converse("SPEAKING", interruption=AT_ONCE).speaks(chunks=10, chunk_ms=500).after(2_000)
    playing = call.outstanding("playback_deadline").command_id
    call.input(kind, **fields)
    assert call.state.phase == "INTERRUPT"
    assert call.commands == [
        StopPlayback(playback_id="answer-1"),
        CancelTask(),
        CancelTimer(command_id=playing, timer="playback_deadline"),
        StartTimer(due_at_us=call.now_us + 50_000, timer="interrupt_pause"),
    ]
    assert (answer(call).outcome, answer(call).heard_ms, answer(call).heard_text) == ("interrupted", 2_000, "Hi! How")
    assert [e.reason for e in call.last if isinstance(e, UserInterrupted)] == [reason]
    assert [e.outcome for e in call.last if isinstance(e, TurnEnded)] == ["interrupted"]
    assert call.fires("interrupt_pause").state.held_text == ""


def test_words_over_the_answer_are_not_lost(converse) -> None:
    """A final in SPEAKING interrupts, is held, and opens the next turn."""
    call = converse("SPEAKING").says("stop").fires("interrupt_pause")
    assert call.state.task.text == "stop"
    assert call.golden[-2] == "[auto_session_12345] STT FINAL | text=stop  (new user input)"


def test_only_the_first_turn_after_an_interruption_is_new_user_input(converse) -> None:
    """The mark says which words interrupted."""
    call = converse("SPEAKING").says("stop").fires("interrupt_pause").says("go on")
    assert call.golden[-2] == "[auto_session_12345] STT FINAL | text=stop go on"


def test_an_empty_final_interrupts_nothing(converse) -> None:
    """Echo that was recognised as nothing."""
    call = converse("SPEAKING").says("  ")
    assert (call.state.phase, call.state.held_text) == ("SPEAKING", "")


def test_a_late_barge_in_is_stale(converse) -> None:
    """It names the answer before, which is over: recorded, rejected, without effect."""
    call = converse("SPEAKING").speaks().played().says("more").answers("Here is more.")
    call.input(BargeIn, playback_id="answer-1")
    assert call.state.phase == "SPEAKING"
    assert call.last[-1].reason == "stale: names a playback that is not playing"
    assert call.input(BargeIn, playback_id="answer-2").state.phase == "INTERRUPT"


def test_an_interrupt_before_the_first_sound_was_not_heard(converse) -> None:
    """Nothing was played, so nothing was heard, however long it took."""
    call = converse("SPEAKING").input(TtsChunkReady, index=0, duration_ms=5_000).after(2_000).interrupts()
    assert (answer(call).heard_ms, answer(call).heard_text) == (0, "")


def test_more_than_the_audio_there_is_cannot_be_heard(converse) -> None:
    """Time goes on when the playback has run dry."""
    call = converse("SPEAKING").input(TtsChunkReady, index=0, duration_ms=700).input(PlaybackStarted).after(9_000)
    assert answer(call.interrupts()).heard_ms == 700


def test_results_of_an_interrupted_answer_are_stale(converse) -> None:
    """Chunks, completion and end come after the cancellation: recorded, rejected."""
    call = converse("SPEAKING").speaks(chunks=2)
    about = {"command_id": call.outstanding("Speak").command_id, "playback_id": "answer-1"}
    call.interrupts().fires("interrupt_pause").says("stop")
    for kind, fields in (
        (TtsChunkReady, {"index": 2, "duration_ms": 200}),
        (TtsComplete, {"chunks": 3, "duration_ms": 600}),
        (PlaybackProgress, {"position_ms": 300}),
        (PlaybackDone, {"confirmed_by": "client"}),
    ):
        call.input(kind, **about, **fields)
        assert call.last[-1].reason == "stale: its command is not outstanding"
        assert call.state.phase == "THINKING"
