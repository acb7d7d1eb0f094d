"""Decisions while speaking: synthesis and playback as they come, their deadlines and failures, and interruption.

Fillers are stopped before SPEAKING begins, so what is outstanding and plays in it is the answer.
"""

from events.derived import UserInterrupted
from events.inputs import BargeIn
from orchestrator.session.commands import StopPlayback
from orchestrator.session.heard import length_ms
from orchestrator.session.listening import begin_turn, spoken_words
from orchestrator.session.phases import enter, leave_turn
from orchestrator.session.step import Step


def chunk_ready(step: Step) -> None:
    """TTS_CHUNK_READY: with the first, synthesis is on time and playback is awaited."""
    if step.state.timer("tts_deadline") is not None:
        _await_playback(step)


def tts_complete(step: Step) -> None:
    """TTS_COMPLETE: the length of the audio is known, and with it when playback should be over."""
    _await_playback(step)


def progress(step: Step) -> None:
    """PLAYBACK_PROGRESS: it plays, so it may take what is left of it from now on, however slow synthesis is."""
    _await_playback(step)


def playback_done(step: Step) -> None:
    """PLAYBACK_DONE: the end of the answer leads to LISTENING."""
    step.disarm("tts_deadline", "playback_deadline")
    step.end_answer("finished")
    step.end_turn("completed")
    enter(step, "LISTENING", "playback_done")


def failed(step: Step) -> None:
    """SERVICE_FAILED: the answer cannot be spoken, so the user may speak again; what is queued of it is cleared."""
    assert step.state.playback is not None, "SPEAKING lasts as long as its playback"
    step.do(StopPlayback(playback_id=step.state.playback.playback_id))
    _give_up(step, "service_failed")


def deadline(step: Step) -> None:
    """TIMER_FIRED `tts_deadline` or `playback_deadline`: nothing came any more; the user may speak again."""
    assert step.answered is not None, "stale results never reach a decision"
    _give_up(step, step.answered.target)


def speech_started(step: Step) -> None:
    """SPEECH_STARTED: the user takes the floor."""
    step.disarm("endpoint", "stt_deadline")
    _interrupt(step, "barge_in")


def barge_in(step: Step) -> None:
    """BARGE_IN: the user takes the floor, unless it names another playback than the one that plays."""
    assert isinstance(step.input, BargeIn)
    assert step.state.playback is not None, "SPEAKING lasts as long as its playback"
    if step.input.playback_id not in ("", step.state.playback.playback_id):
        step.reject("stale: names a playback that is not playing")
    else:
        _interrupt(step, "barge_in")


def final(step: Step) -> None:
    """STT_FINAL: words that arrive over the answer interrupt it, and are held (by evolve) until LISTENING."""
    if spoken_words(step):
        _interrupt(step, "user_input")


def pause_over(step: Step) -> None:
    """TIMER_FIRED `interrupt_pause`: LISTENING, and the words that waited for it open the next turn."""
    enter(step, "LISTENING")
    if step.state.held_text:
        begin_turn(step, step.state.held_text, step.state.held_via)


def _await_playback(step: Step) -> None:
    """Expect the end, or the next progress, within what is left to play and some grace."""
    playback = step.state.playback
    assert playback is not None, "SPEAKING lasts as long as its playback"
    remaining_ms = max(0, length_ms(playback) - playback.position_ms)
    step.disarm("tts_deadline")
    step.arm("playback_deadline", remaining_ms + step.state.policy.deadlines.playback_grace_ms)


def _interrupt(step: Step, reason: str) -> None:
    assert step.state.playback is not None, "SPEAKING lasts as long as its playback"
    playback_id = step.state.playback.playback_id
    step.end_answer("interrupted")
    step.say(UserInterrupted, playback_id=playback_id, reason=reason)
    leave_turn(step)
    step.end_turn("interrupted")
    enter(step, "INTERRUPT")


def _give_up(step: Step, reason: str) -> None:
    step.end_answer("failed")
    leave_turn(step)
    step.end_turn("failed")
    enter(step, "LISTENING", reason)
