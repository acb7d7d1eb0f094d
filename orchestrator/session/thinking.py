"""Decisions while thinking: the join of intent and answer, deadlines, failures, the filler."""

from events.derived import ProcessingComplete
from events.inputs import BargeIn
from orchestrator.session.commands import StopPlayback
from orchestrator.session.listening import begin_turn, spoken_words
from orchestrator.session.phases import enter, leave_turn, stop_playback, withdraw
from orchestrator.session.step import Step


def intent_resolved(step: Step) -> None:
    """INTENT_RESOLVED: half of the join."""
    step.disarm("intent_deadline")
    _join(step)


def rag_answered(step: Step) -> None:
    """RAG_ANSWERED: the other half."""
    step.disarm("answer_deadline")
    _join(step)


def intent_deadline(step: Step) -> None:
    """TIMER_FIRED `intent_deadline`: go on without an intent."""
    withdraw(step, "ClassifyIntent")
    _join(step)


def answer_deadline(step: Step) -> None:
    """TIMER_FIRED `answer_deadline`: speak the fallback answer."""
    _complete(step, fallback="answer_deadline")


def failed(step: Step) -> None:
    """SERVICE_FAILED: without an intent it goes on, without an answer it speaks the fallback, a filler is no loss."""
    assert step.answered is not None, "stale results never reach a decision"
    if step.answered.name == "ClassifyIntent":
        intent_resolved(step)
    elif step.answered.name == "AnswerQuestion":
        _complete(step, fallback="service_failed")
    else:
        step.do(StopPlayback(playback_id=step.answered.target))  # what is queued of the filler must not go on


def final(step: Step) -> None:
    """STT_FINAL in THINKING: the user corrected or completed what they said, and the turn starts over; an empty one
    says that there was nothing to wait for.
    """
    was_awaited = step.state.timer("stt_deadline") is not None
    if words := spoken_words(step):
        _start_over(step, words, step.input.via)  # type: ignore[attr-defined]
    elif was_awaited:
        _speak_if_it_waits(step)


def final_is_missing(step: Step) -> None:
    """TIMER_FIRED `stt_deadline` in THINKING: what was understood so far is all there will be."""
    if words := step.state.partial_text.strip():
        _start_over(step, words, "speech")
    else:
        _speak_if_it_waits(step)


def floor_deadline(step: Step) -> None:
    """TIMER_FIRED `floor_deadline`: the answer has waited long enough for the user."""
    _speak_if_it_waits(step)


def barge_in(step: Step) -> None:
    """BARGE_IN while thinking: the user wants the floor, so the filler is silent."""
    assert isinstance(step.input, BargeIn)
    playing = [command.target for command in step.state.outstanding("PlayFiller")]
    if step.input.playback_id and step.input.playback_id not in playing:
        step.reject("stale: names a playback that is not playing")
        return
    for playback_id in playing:
        step.do(StopPlayback(playback_id=playback_id))


def _join(step: Step) -> None:
    task = step.state.task
    assert task is not None, "THINKING lies within a turn"
    if task.intent is not None and task.answer is not None:
        _complete(step)


def _complete(step: Step, fallback: str = "") -> None:
    """Processing is complete: what is still outstanding of it is withdrawn, and the answer is spoken, but never over
    a user who is speaking.
    """
    withdraw(step, "ClassifyIntent")
    withdraw(step, "AnswerQuestion")
    step.disarm("intent_deadline", "answer_deadline")
    task = step.state.task
    assert task is not None, "THINKING lies within a turn"
    elapsed_us = step.state.at_us - task.started_at_us
    step.say(
        ProcessingComplete,
        answer=step.state.policy.fallback.answer if fallback else task.answer,
        elapsed_us=elapsed_us,
        fallback=fallback,
        intent=task.intent or "",
        saved_us=max(
            0, sum(min(us, elapsed_us) for us in (task.intent_elapsed_us, task.answer_elapsed_us)) - elapsed_us
        ),
    )
    if _user_has_the_floor(step):
        step.arm("floor_deadline", step.state.policy.deadlines.floor_ms)
    else:
        _speak(step, fallback)


def _user_has_the_floor(step: Step) -> bool:
    """The user is speaking, or has just spoken and it is not known yet what."""
    state = step.state
    return state.user_is_speaking or any(state.timer(name) for name in ("endpoint", "stt_deadline"))


def _speak_if_it_waits(step: Step) -> None:
    if step.state.task is not None and step.state.task.is_processed:
        _speak(step, "")


def _speak(step: Step, reason: str) -> None:
    step.disarm("floor_deadline")
    stop_playback(step)
    enter(step, "SPEAKING", reason)


def _start_over(step: Step, words: str, via: str) -> None:
    leave_turn(step)
    step.end_turn("superseded")
    begin_turn(step, words, via)
