"""Decisions in THINKING: beginning a turn, joining intent and answer, words added meanwhile, deadlines."""

from events.derived import ProcessingComplete, TurnStarted
from events.inputs import BargeIn, SttFinal
from orchestrator.session import endpointing, speculation
from orchestrator.session.commands import Speak, StopPlayback
from orchestrator.session.evolve import HELD_CHARS
from orchestrator.session.phases import enter, leave_turn, play_filler, speak, speak_on, stop_playback, withdraw
from orchestrator.session.phrases import begins_with
from orchestrator.session.state import Turn
from orchestrator.session.step import Step
from orchestrator.session.utterance import spoken_words

TOO_MANY_FAILURES = "too_many_failures"


def begin_turn(step: Step, text: str, via: str) -> None:
    """Start a turn with these words, and enter THINKING. If the services were asked early about the same words and have
    answered, speak the answer at once.
    """
    step.disarm("endpoint", "stt_deadline", "stable", "away", "greeting")
    step.say(TurnStarted, speculation=speculation.adopt(step, text), text=text, via=via)
    enter(step, "THINKING")
    _join(step)


def intent_resolved(step: Step) -> None:
    """INTENT_RESOLVED: stop the intent's deadline, and speak the answer if it is there, too."""
    step.disarm("intent_deadline")
    _join(step)


def answer_text(step: Step) -> None:
    """ANSWER_TEXT in THINKING: restart the answer's deadline. With the first text, speak the answer if the intent is
    there, too; later texts are kept.
    """
    if is_next_text(step):
        step.arm("answer_deadline", step.state.policy.deadlines.next_text_ms)
        _join(step)


def is_next_text(step: Step) -> bool:
    """Whether an ANSWER_TEXT is the next text of the answer. Rejects any other text."""
    if not step.is_next_text:
        step.reject("not the next text of the answer")
    return step.is_next_text


def rag_answered(step: Step) -> None:
    """RAG_ANSWERED in THINKING: stop the answer's deadline, and speak the answer if the intent is there, too."""
    step.disarm("answer_deadline")
    _join(step)


def intent_deadline(step: Step) -> None:
    """TIMER_FIRED `intent_deadline`: withdraw the request, and go on without an intent."""
    withdraw(step, "ClassifyIntent")
    _join(step)


def answer_deadline(step: Step) -> None:
    """TIMER_FIRED `answer_deadline` in THINKING: speak the answer's texts that have come, or the fallback answer."""
    if _task(step).found.texts:
        withdraw(step, "AnswerQuestion")
        _join(step)
    else:
        _complete(step, fallback="answer_deadline")


def failed(step: Step) -> None:
    """SERVICE_FAILED in THINKING: if the intent service failed, go on without an intent. If the answer service failed,
    speak the answer's texts that have come, or the fallback answer. If a filler failed, clear its audio.
    """
    assert step.answered is not None, "stale results never reach a decision"
    if step.answered.name == "ClassifyIntent":
        intent_resolved(step)
    elif step.answered.name == "AnswerQuestion" and _task(step).found.texts:
        rag_answered(step)
    elif step.answered.name == "AnswerQuestion":
        _complete(step, fallback="service_failed")
    else:
        step.do(StopPlayback(playback_id=step.answered.target))  # drop the filler's queued audio


def final(step: Step) -> None:
    """STT_FINAL in THINKING: start the turn over with these words, which correct or complete the user's question. If
    the final is empty, speak the answer, if it is ready and only waited for the user to fall silent.
    """
    assert isinstance(step.input, SttFinal)
    if words := spoken_words(step):
        _start_over(step, words, step.input.via)
    elif step.is_awaited and endpointing.is_quiet(step):
        _speak_if_it_waits(step)


def final_is_missing(step: Step) -> None:
    """TIMER_FIRED `stt_deadline` in THINKING: no final came, so start the turn over with the last partial. Without a
    partial, speak the answer, if it is ready and only waited for the user to fall silent.
    """
    if words := step.state.partial_text.strip():
        _start_over(step, words, "speech")
    elif endpointing.is_quiet(step):
        _speak_if_it_waits(step)


def floor_deadline(step: Step) -> None:
    """TIMER_FIRED `floor_deadline`: speak the answer, which has waited long enough for the user to stop speaking."""
    _speak_if_it_waits(step)


def filler(step: Step) -> None:
    """TIMER_FIRED `filler`: the answer takes a while, so speak the filler of the policy, such as "One moment, please."
    Not while the user is speaking or another filler plays.
    """
    if endpointing.is_quiet(step) and not step.state.outstanding("PlayFiller"):
        play_filler(step)


def speech_started(step: Step) -> None:
    """SPEECH_STARTED in THINKING: stop the filler (words for a user who waits), because the user speaks on."""
    endpointing.speech_started(step)
    stop_playback(step)


def barge_in(step: Step) -> None:
    """BARGE_IN in THINKING: stop the filler (words for a user who waits), because the user wants the floor. Reject a
    BARGE_IN that names another playback.
    """
    assert isinstance(step.input, BargeIn)
    playing = [command.target for command in step.state.outstanding("PlayFiller")]
    if step.input.playback_id and step.input.playback_id not in playing:
        step.reject("stale: names a playback that is not playing")
        return
    for playback_id in playing:
        step.do(StopPlayback(playback_id=playback_id))


def _task(step: Step) -> Turn:
    task = step.state.task
    assert task is not None, "THINKING lies within a turn"
    return task


def _join(step: Step) -> None:
    task = _task(step)
    if not task.is_processed and task.found.intent is not None and task.found.is_begun:
        _complete(step)


def _complete(step: Step, fallback: str = "") -> None:
    """End the processing of the question: withdraw its outstanding requests, and speak the answer or, while the user is
    speaking, wait for silence until `floor_deadline`. An answer that is still being written is spoken from its first
    texts on.
    """
    withdraw(step, "ClassifyIntent")
    is_open = not fallback and _task(step).found.answer is None
    if not is_open:
        withdraw(step, "AnswerQuestion")
    step.disarm("filler", "tool_filler", "intent_deadline", *(() if is_open else ("answer_deadline",)))
    task = _task(step)
    found, elapsed_us = task.found, step.state.at_us - task.started_at_us
    ends = _ends(step, fallback)
    step.say(
        ProcessingComplete,
        answer=_fallback(step, ends) if fallback else "".join(found.texts) or found.answer,
        elapsed_us=elapsed_us,
        ends=ends,
        fallback=fallback,
        intent=found.intent or "",
        saved_us=max(
            0, sum(min(us, elapsed_us) for us in (found.intent_elapsed_us, found.answer_elapsed_us)) - elapsed_us
        ),
    )
    if endpointing.is_quiet(step):
        _speak(step, fallback)
    else:
        step.arm("floor_deadline", step.state.policy.deadlines.floor_ms)


def _ends(step: Step, fallback: str) -> str:
    """Why the session ends with this answer: too many failed answers, or the user's goodbye; empty: it does not end."""
    state, task = step.state, step.state.task
    if fallback:
        limit = state.policy.fallback.failures
        return TOO_MANY_FAILURES if limit and state.answer_failures >= limit else ""
    said_goodbye = task is not None and task.found.intent and task.found.intent == state.policy.goodbye.intent
    return "goodbye" if said_goodbye else ""


def _fallback(step: Step, ends: str) -> str:
    fallback = step.state.policy.fallback
    return fallback.goodbye if ends else fallback.answer


def _speak_if_it_waits(step: Step) -> None:
    if step.state.task is not None and step.state.task.is_processed:
        _speak(step, "")


def _speak(step: Step, reason: str) -> None:
    task = _task(step)
    step.disarm("floor_deadline")
    stop_playback(step)
    enter(step, "SPEAKING", reason)
    found = task.found
    is_open = bool(found.texts) and (found.answer is None or len(found.texts) > 1)
    text = (found.texts[0] if is_open else found.answer) or ""
    speak(step, Speak(ends=task.ends, from_ms=0, playback_id=f"answer-{step.state.turn}", text=text, is_open=is_open))
    if is_open and (len(found.texts) > 1 or found.answer is not None):
        speak_on(step)


def _start_over(step: Step, words: str, via: str) -> None:
    """Start the turn over with more words. By policy, spoken words are appended to the turn's spoken words, unless the
    new words begin with the old ones. Typed words are a new question.
    """
    task = _task(step)
    merges = step.state.policy.thinking.more_words == "merge" and task.via == via == "speech"
    joined = words if begins_with(words, task.text) else f"{task.text} {words}"
    leave_turn(step)
    step.end_turn("merged" if merges else "superseded")
    begin_turn(step, joined[:HELD_CHARS].rstrip() if merges else words, via)
