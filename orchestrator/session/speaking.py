"""Decisions in SPEAKING: progress of synthesis and playback, their deadlines and failures, and the end of an answer.

Fillers are stopped before SPEAKING begins, so the only outstanding playback in SPEAKING is the answer or announcement.
"""

from orchestrator.session import tools
from orchestrator.session.commands import StopPlayback
from orchestrator.session.endpointing import is_quiet
from orchestrator.session.heard import guessed_ms, length_ms, roughly_ms
from orchestrator.session.lifecycle import end
from orchestrator.session.listening import listen
from orchestrator.session.phases import TIMERS_OF_THE_PLAYBACK, leave_turn, speak_on, withdraw
from orchestrator.session.phrases import may_become, normal
from orchestrator.session.state import Playback
from orchestrator.session.step import StepBuilder
from orchestrator.session.thinking import TOO_MANY_FAILURES, is_next_text


def answer_text(step: StepBuilder) -> None:
    """ANSWER_TEXT in SPEAKING: speak the next text of the answer, and restart the answer's deadline."""
    if is_next_text(step):
        step.arm("answer_deadline", tools.answer_ms(step))
        speak_on(step)


def answer_complete(step: StepBuilder) -> None:
    """RAG_ANSWERED in SPEAKING: the answer is complete, so send its remaining texts to the playback. Start the timer
    `playback_deadline`, the limit for the end of the playback, unless `tts_deadline` is running (no audio has come yet)
    or neither a client nor a handler is connected.
    """
    step.disarm("answer_deadline")
    speak_on(step)
    state = step.state
    if state.timer("tts_deadline") is None and (state.client_id or state.handler_id):
        await_playback(step)


def answer_deadline(step: StepBuilder) -> None:
    """TIMER_FIRED `answer_deadline` in SPEAKING: cancel the request for the answer, and end the answer after the texts
    that have come.
    """
    withdraw(step, "AnswerQuestion")
    answer_complete(step)


def started(step: StepBuilder) -> None:
    """PLAYBACK_STARTED in SPEAKING: if the client shows the answer as text, and more texts are to come, stop the timer
    `tts_deadline` (limit for the first audio): no audio comes. If no more texts are to come, `tts_deadline` runs on,
    until PLAYBACK_DONE.
    """
    if playing(step).is_shown and playing(step).is_open:
        step.disarm("tts_deadline")


def chunk_ready(step: StepBuilder) -> None:
    """TTS_CHUNK_READY: at the first chunk, stop the timer `tts_deadline` (limit for the first audio), and start the
    timer `playback_deadline` (limit for the end of the playback).
    """
    if step.state.timer("tts_deadline") is not None:
        await_playback(step)


def tts_complete(step: StepBuilder) -> None:
    """TTS_COMPLETE: restart the timer `playback_deadline`, because the length of the audio is known now."""
    await_playback(step)


def progress(step: StepBuilder) -> None:
    """PLAYBACK_PROGRESS: restart the timer `playback_deadline`, with the audio left after the reported position."""
    await_playback(step)


def playback_done(step: StepBuilder) -> None:
    """PLAYBACK_DONE: end the answer and the turn, then enter LISTENING. After a farewell, end the session instead,
    unless the user is speaking by now or a transcript is pending (`_is_answered`).
    """
    ends = "" if _is_answered(step) else playing(step).ends
    withdraw(step, "AnswerQuestion")
    tools.cancel_with_turn(step)
    step.disarm("answer_deadline", *TIMERS_OF_THE_PLAYBACK)
    step.end_answer("finished")
    step.end_turn("completed")
    if ends:
        end(step, ends)
    else:
        listen(step, "playback_done")


def _is_answered(step: StepBuilder) -> bool:
    """Whether the user continues the conversation during the farewell: they are speaking, or a transcript is pending.
    If the user has said goodbye before, their new words must be more than a backchannel. False if the playback is no
    farewell, or a farewell that cannot be interrupted.
    """
    state, playback = step.state, playing(step)
    if not (playback.ends and playback.is_interruptible and state.has_rules_of(7)) or is_quiet(step):
        return False
    text, backchannels = state.partial_text, state.policy.interruption.backchannels
    return playback.ends != "goodbye" or bool(normal(text) and not may_become(text, backchannels))


def failed(step: StepBuilder) -> None:
    """SERVICE_FAILED in SPEAKING: if synthesis failed, stop the playback and give up the answer. Then end the session
    if the answer was a farewell, or if speech has failed too often in a row; otherwise enter LISTENING. If the answer
    service failed, end the answer after the texts that have come.
    """
    assert step.answered is not None, "stale results never reach a decision"
    if step.answered.name == "AnswerQuestion":
        answer_complete(step)
        return
    step.do(StopPlayback(playback_id=playing(step).playback_id))
    _give_up(step, "service_failed")


def deadline(step: StepBuilder) -> None:
    """TIMER_FIRED `tts_deadline` or `playback_deadline`: the speech is late, so give up the answer. Then end the
    session if the answer was a farewell, or if speech has failed too often in a row; otherwise enter LISTENING.
    """
    assert step.answered is not None, "stale results never reach a decision"
    _give_up(step, step.answered.target)


def pause_over(step: StepBuilder) -> None:
    """TIMER_FIRED `interrupt_pause`: INTERRUPT has lasted `pause_ms`, so enter LISTENING. Words said during the
    interruption open the next turn.
    """
    listen(step)


def playing(step: StepBuilder) -> Playback:
    """The current playback, which always exists in SPEAKING."""
    assert step.state.playback is not None, "SPEAKING lasts as long as its playback"
    return step.state.playback


def await_playback(step: StepBuilder) -> None:
    """Stop the timer `tts_deadline`. Restart the timer `playback_deadline`: it fires if the playback takes more than
    `playback_grace_ms` longer than its remaining audio. Do not restart `playback_deadline` while the playback is
    paused, or while more texts of the answer are to come.
    """
    playback = playing(step)
    step.disarm("tts_deadline")
    if not playback.is_paused and not playback.is_open:
        guess = guessed_ms if step.state.has_rules_of(7) else roughly_ms
        remaining_ms = max(0, length_ms(playback, guess) - playback.position_ms)
        step.arm("playback_deadline", remaining_ms + step.state.policy.deadlines.playback_grace_ms)


def _give_up(step: StepBuilder, reason: str) -> None:
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
