"""Decisions while speaking: synthesis and playback as they come, their deadlines and failures, and the end.

Fillers are stopped before SPEAKING begins, so what is outstanding and plays in it is what the agent says.
"""

from orchestrator.session.commands import StopPlayback
from orchestrator.session.heard import length_ms
from orchestrator.session.lifecycle import end
from orchestrator.session.listening import listen
from orchestrator.session.phases import OF_THE_PLAYBACK, leave_turn
from orchestrator.session.state import Playback
from orchestrator.session.step import Step
from orchestrator.session.thinking import TOO_MANY_FAILURES


def chunk_ready(step: Step) -> None:
    """TTS_CHUNK_READY: with the first, synthesis is on time and playback is awaited."""
    if step.state.timer("tts_deadline") is not None:
        await_playback(step)


def tts_complete(step: Step) -> None:
    """TTS_COMPLETE: the length of the audio is known, and with it when playback should be over."""
    await_playback(step)


def progress(step: Step) -> None:
    """PLAYBACK_PROGRESS: it plays, so it may take what is left of it from now on, however slow synthesis is."""
    await_playback(step)


def playback_done(step: Step) -> None:
    """PLAYBACK_DONE: the end of the answer leads to LISTENING, that of the last words to the end of the session."""
    ends = playing(step).ends
    step.disarm(*OF_THE_PLAYBACK)
    step.end_answer("finished")
    step.end_turn("completed")
    if ends:
        end(step, ends)
    else:
        listen(step, "playback_done")


def failed(step: Step) -> None:
    """SERVICE_FAILED: the answer cannot be spoken, so the user may speak again; what is queued of it is cleared."""
    step.do(StopPlayback(playback_id=playing(step).playback_id))
    _give_up(step, "service_failed")


def deadline(step: Step) -> None:
    """TIMER_FIRED `tts_deadline` or `playback_deadline`: nothing came any more; the user may speak again."""
    assert step.answered is not None, "stale results never reach a decision"
    _give_up(step, step.answered.target)


def pause_over(step: Step) -> None:
    """TIMER_FIRED `interrupt_pause`: LISTENING, and the words that waited for it open the next turn."""
    listen(step)


def playing(step: Step) -> Playback:
    """What the agent is saying."""
    assert step.state.playback is not None, "SPEAKING lasts as long as its playback"
    return step.state.playback


def await_playback(step: Step) -> None:
    """Expect the end, or the next progress, within what is left to play and some grace; not while it is paused."""
    playback = playing(step)
    step.disarm("tts_deadline")
    if not playback.is_paused:
        remaining_ms = max(0, length_ms(playback) - playback.position_ms)
        step.arm("playback_deadline", remaining_ms + step.state.policy.deadlines.playback_grace_ms)


def _give_up(step: Step, reason: str) -> None:
    ends, limit = playing(step).ends, step.state.policy.fallback.failures
    if limit and step.state.speech_failures >= limit:
        ends = ends or TOO_MANY_FAILURES
    step.end_answer("failed")
    leave_turn(step)
    step.end_turn("failed")
    if ends:
        end(step, ends)
    else:
        listen(step, reason)
