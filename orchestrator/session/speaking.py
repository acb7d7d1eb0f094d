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
    """ANSWER_TEXT in SPEAKING: speak the next text of the answer, and restart the answer's deadline."""
    if is_next_text(step):
        step.arm("answer_deadline", step.state.policy.deadlines.next_text_ms)
        speak_on(step)


def answer_complete(step: Step) -> None:
    """RAG_ANSWERED in SPEAKING: the answer is complete. Issue its remaining texts, close the playback, and start the
    playback's deadline.
    """
    step.disarm("answer_deadline")
    speak_on(step)
    state = step.state
    if state.timer("tts_deadline") is None and (state.client_id or state.handler_id):
        await_playback(step)


def answer_deadline(step: Step) -> None:
    """TIMER_FIRED `answer_deadline` in SPEAKING: withdraw the request for the answer, and end the answer after the
    texts that have come.
    """
    withdraw(step, "AnswerQuestion")
    answer_complete(step)


def started(step: Step) -> None:
    """PLAYBACK_STARTED in SPEAKING: end the deadline of the first audio if the answer is shown as text, not spoken,
    while it is being written.
    """
    if playing(step).is_shown and playing(step).is_open:
        step.disarm("tts_deadline")


def chunk_ready(step: Step) -> None:
    """TTS_CHUNK_READY: with the first chunk, end the deadline of the first audio and start that of the playback."""
    if step.state.timer("tts_deadline") is not None:
        await_playback(step)


def tts_complete(step: Step) -> None:
    """TTS_COMPLETE: restart the playback's deadline, because the length of the audio is known now."""
    await_playback(step)


def progress(step: Step) -> None:
    """PLAYBACK_PROGRESS: restart the playback's deadline with the remaining length, however slow synthesis was."""
    await_playback(step)


def playback_done(step: Step) -> None:
    """PLAYBACK_DONE: end the answer and the turn. Then enter LISTENING or, after a farewell, end the session."""
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
    """SERVICE_FAILED in SPEAKING: if synthesis failed, stop the playback, give up the answer and let the user speak. If
    the answer service failed, end the answer after the texts that have come.
    """
    assert step.answered is not None, "stale results never reach a decision"
    if step.answered.name == "AnswerQuestion":
        answer_complete(step)
        return
    step.do(StopPlayback(playback_id=playing(step).playback_id))
    _give_up(step, "service_failed")


def deadline(step: Step) -> None:
    """TIMER_FIRED `tts_deadline` or `playback_deadline`: give up the answer, and enter LISTENING or end the session."""
    assert step.answered is not None, "stale results never reach a decision"
    _give_up(step, step.answered.target)


def pause_over(step: Step) -> None:
    """TIMER_FIRED `interrupt_pause`: enter LISTENING. Words said during the interruption open the next turn."""
    listen(step)


def playing(step: Step) -> Playback:
    """The current playback, which always exists in SPEAKING."""
    assert step.state.playback is not None, "SPEAKING lasts as long as its playback"
    return step.state.playback


def await_playback(step: Step) -> None:
    """Arm the deadline for the playback's end or next progress: remaining length plus grace. Not while the playback is
    paused, or waits for more text. The deadline of the first audio ends.
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
