"""Decisions in SPEAKING: progress of synthesis and playback, their deadlines and failures, and the end of an answer.

Fillers are stopped before SPEAKING begins, so the only outstanding playback in SPEAKING is the answer or announcement.
"""

from orchestrator.session.commands import StopPlayback
from orchestrator.session.heard import length_ms
from orchestrator.session.lifecycle import end
from orchestrator.session.listening import listen
from orchestrator.session.phases import OF_THE_PLAYBACK, leave_turn, speak_on, withdraw
from orchestrator.session.state import Playback
from orchestrator.session.step import Step
from orchestrator.session.thinking import TOO_MANY_FAILURES, is_next_text


def answer_text(step: Step) -> None:
    """ANSWER_TEXT in SPEAKING: the answer goes on."""
    if is_next_text(step):
        step.arm("answer_deadline", step.state.policy.deadlines.next_text_ms)
        speak_on(step)


def answer_complete(step: Step) -> None:
    """RAG_ANSWERED in SPEAKING: the answer is complete, so its playback ends after what there is of it."""
    step.disarm("answer_deadline")
    speak_on(step)
    state = step.state
    if state.timer("tts_deadline") is None and (state.client_id or state.handler_id):
        await_playback(step)


def answer_deadline(step: Step) -> None:
    """TIMER_FIRED `answer_deadline` in SPEAKING: the rest of the answer does not come."""
    withdraw(step, "AnswerQuestion")
    answer_complete(step)


def started(step: Step) -> None:
    """PLAYBACK_STARTED in SPEAKING: an answer that is shown while it is written owes no audio."""
    if playing(step).is_shown and playing(step).is_open:
        step.disarm("tts_deadline")


def chunk_ready(step: Step) -> None:
    """TTS_CHUNK_READY: with the first, synthesis is on time and playback is awaited."""
    if step.state.timer("tts_deadline") is not None:
        await_playback(step)


def tts_complete(step: Step) -> None:
    """TTS_COMPLETE: the length of the audio is known, and with it when playback should be over."""
    await_playback(step)


def progress(step: Step) -> None:
    """PLAYBACK_PROGRESS: restart the deadline with the remaining length, however slow synthesis was."""
    await_playback(step)


def playback_done(step: Step) -> None:
    """PLAYBACK_DONE: after an answer, LISTENING follows; after the agent's farewell, the session ends."""
    ends = playing(step).ends
    withdraw(step, "AnswerQuestion")
    step.disarm("answer_deadline", *OF_THE_PLAYBACK)
    step.end_answer("finished")
    step.end_turn("completed")
    if ends:
        end(step, ends)
    else:
        listen(step, "playback_done")


def failed(step: Step) -> None:
    """SERVICE_FAILED: the answer cannot be spoken, so the user may speak again; its queue is cleared. The
    failure of the answer service only cuts the answer off.
    """
    assert step.answered is not None, "stale results never reach a decision"
    if step.answered.name == "AnswerQuestion":
        answer_complete(step)
        return
    step.do(StopPlayback(playback_id=playing(step).playback_id))
    _give_up(step, "service_failed")


def deadline(step: Step) -> None:
    """TIMER_FIRED `tts_deadline` or `playback_deadline`: give up the answer; the user may speak again."""
    assert step.answered is not None, "stale results never reach a decision"
    _give_up(step, step.answered.target)


def pause_over(step: Step) -> None:
    """TIMER_FIRED `interrupt_pause`: LISTENING, and the words that waited for it open the next turn."""
    listen(step)


def playing(step: Step) -> Playback:
    """The current playback, which always exists in SPEAKING."""
    assert step.state.playback is not None, "SPEAKING lasts as long as its playback"
    return step.state.playback


def await_playback(step: Step) -> None:
    """Arm the deadline for the playback's end or next progress: remaining length plus grace. Not while it is paused, or
    waits for more text.
    """
    playback = playing(step)
    step.disarm("tts_deadline")
    if not playback.is_paused and not playback.is_open:
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
