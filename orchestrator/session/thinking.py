"""Decisions while thinking: how a turn begins, the join of intent and answer, the words that are added, deadlines."""

from events.derived import ProcessingComplete, TurnStarted
from events.inputs import BargeIn, SttFinal
from orchestrator.session import endpointing, speculation
from orchestrator.session.commands import Speak, StopPlayback
from orchestrator.session.evolve import HELD_CHARS
from orchestrator.session.phases import enter, leave_turn, play_filler, speak, stop_playback, withdraw
from orchestrator.session.phrases import normal
from orchestrator.session.step import Step
from orchestrator.session.utterance import spoken_words

TOO_MANY_FAILURES = "too_many_failures"


def begin_turn(step: Step, text: str, via: str) -> None:
    """An utterance counts: a turn starts, and THINKING with it. What was asked early may be answered already."""
    step.disarm("endpoint", "stt_deadline", "stable", "away", "greeting")
    step.say(TurnStarted, speculation=speculation.adopt(step, text), text=text, via=via)
    enter(step, "THINKING")
    _join(step)


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
    assert isinstance(step.input, SttFinal)
    if words := spoken_words(step):
        _start_over(step, words, step.input.via)
    elif step.is_awaited and endpointing.is_quiet(step):
        _speak_if_it_waits(step)


def final_is_missing(step: Step) -> None:
    """TIMER_FIRED `stt_deadline` in THINKING: what was understood so far is all there will be."""
    if words := step.state.partial_text.strip():
        _start_over(step, words, "speech")
    elif endpointing.is_quiet(step):
        _speak_if_it_waits(step)


def floor_deadline(step: Step) -> None:
    """TIMER_FIRED `floor_deadline`: the answer has waited long enough for the user."""
    _speak_if_it_waits(step)


def filler(step: Step) -> None:
    """TIMER_FIRED `filler`: the answer takes a while, so say something; but not to a user who is speaking."""
    if endpointing.is_quiet(step):
        play_filler(step)


def speech_started(step: Step) -> None:
    """SPEECH_STARTED while thinking: the user goes on, and the filler is silent."""
    endpointing.speech_started(step)
    stop_playback(step)


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
    step.disarm("filler", "intent_deadline", "answer_deadline")
    task = step.state.task
    assert task is not None, "THINKING lies within a turn"
    elapsed_us = step.state.at_us - task.started_at_us
    ends = _ends(step, fallback)
    step.say(
        ProcessingComplete,
        answer=_fallback(step, ends) if fallback else task.answer,
        elapsed_us=elapsed_us,
        ends=ends,
        fallback=fallback,
        intent=task.intent or "",
        saved_us=max(
            0, sum(min(us, elapsed_us) for us in (task.intent_elapsed_us, task.answer_elapsed_us)) - elapsed_us
        ),
    )
    if endpointing.is_quiet(step):
        _speak(step, fallback)
    else:
        step.arm("floor_deadline", step.state.policy.deadlines.floor_ms)


def _ends(step: Step, fallback: str) -> str:
    """Why the session ends with this answer: the answers have failed too often, or the user has said goodbye."""
    state, task = step.state, step.state.task
    if fallback:
        limit = state.policy.fallback.failures
        return TOO_MANY_FAILURES if limit and state.answer_failures >= limit else ""
    said_goodbye = task is not None and task.intent and task.intent == state.policy.goodbye.intent
    return "goodbye" if said_goodbye else ""


def _fallback(step: Step, ends: str) -> str:
    fallback = step.state.policy.fallback
    return fallback.goodbye if ends else fallback.answer


def _speak_if_it_waits(step: Step) -> None:
    if step.state.task is not None and step.state.task.is_processed:
        _speak(step, "")


def _speak(step: Step, reason: str) -> None:
    task = step.state.task
    assert task is not None, "THINKING lies within a turn"
    step.disarm("floor_deadline")
    stop_playback(step)
    enter(step, "SPEAKING", reason)
    answer = Speak(ends=task.ends, from_ms=0, playback_id=f"answer-{step.state.turn}", text=task.answer or "")
    speak(step, answer)


def _start_over(step: Step, words: str, via: str) -> None:
    """More words: spoken ones join those before by policy, unless they repeat them; typed ones are a new question."""
    task = step.state.task
    assert task is not None, "THINKING lies within a turn"
    merges = step.state.policy.thinking.more_words == "merge" and task.via == via == "speech"
    joined = words if f"{normal(words)} ".startswith(f"{normal(task.text)} ") else f"{task.text} {words}"
    leave_turn(step)
    step.end_turn("merged" if merges else "superseded")
    begin_turn(step, joined[:HELD_CHARS].rstrip() if merges else words, via)
