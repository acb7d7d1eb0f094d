"""Decisions in THINKING: start a turn, speak a filler, join intent and answer, take new words, end late requests."""

from events.derived import ProcessingComplete, TurnStarted
from events.inputs import BargeIn, SttFinal
from orchestrator.session import endpointing, speculation, tools
from orchestrator.session.commands import Speak, StopPlayback
from orchestrator.session.phases import enter, leave_turn, play_filler, speak, speak_on, stop_playback, withdraw
from orchestrator.session.phrases import begins_with
from orchestrator.session.state import Turn
from orchestrator.session.step import StepBuilder
from orchestrator.session.transcripts import HELD_CHARS
from orchestrator.session.utterance import spoken_words

TOO_MANY_FAILURES = "too_many_failures"


def begin_turn(step: StepBuilder, text: str, via: str) -> None:
    """Start a turn with these words, and enter THINKING. `via`: "speech" or "text" (typed). If a speculation was about
    the same words, take over its results. If these are enough (the intent, and the answer or its first text), speak the
    answer at once.
    """
    step.disarm("endpoint", "stt_deadline", "stable", "away", "greeting")
    step.say(TurnStarted, speculation=speculation.adopt(step, text), text=text, via=via)
    enter(step, "THINKING")
    _join(step)


def intent_resolved(step: StepBuilder) -> None:
    """INTENT_RESOLVED in THINKING: stop the timer `intent_deadline`. If the answer or its first text has already
    arrived, speak the answer.
    """
    step.disarm("intent_deadline")
    _join(step)


def answer_text(step: StepBuilder) -> None:
    """ANSWER_TEXT in THINKING: restart the timer `answer_deadline`. If the intent has already arrived, speak the
    answer. Otherwise the text waits for the intent. Reject a text that is not the next text of the answer.
    """
    if is_next_text(step):
        step.arm("answer_deadline", tools.answer_ms(step))
        _join(step)


def is_next_text(step: StepBuilder) -> bool:
    """Whether an ANSWER_TEXT is the next text of the answer. Rejects any other text."""
    if not step.is_next_text:
        step.reject("not the next text of the answer")
    return step.is_next_text


def rag_answered(step: StepBuilder) -> None:
    """RAG_ANSWERED in THINKING: stop the timer `answer_deadline`. If the intent has come already, speak the answer."""
    step.disarm("answer_deadline")
    _join(step)


def intent_deadline(step: StepBuilder) -> None:
    """TIMER_FIRED `intent_deadline`: cancel the request for the intent, and go on without an intent."""
    withdraw(step, "ClassifyIntent")
    _join(step)


def answer_deadline(step: StepBuilder) -> None:
    """TIMER_FIRED `answer_deadline` in THINKING: speak the fallback answer. But if texts of the answer have come, they
    become the whole answer: speak them, once the intent has arrived.
    """
    if _task(step).found.texts:
        withdraw(step, "AnswerQuestion")
        _join(step)
    else:
        _complete(step, fallback="answer_deadline")


def failed(step: StepBuilder) -> None:
    """SERVICE_FAILED in THINKING: if the intent service failed, go on without an intent. If the answer service failed
    after texts of the answer had come, these texts become the whole answer. If it failed before any text, speak the
    fallback answer. If a filler failed, clear its audio.
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


def final(step: StepBuilder) -> None:
    """STT_FINAL in THINKING: start the turn over with the words of the final, because they correct or complete the
    user's question. If the final has no new words, and a ready answer waits for the user's silence, speak the answer.
    """
    assert isinstance(step.input, SttFinal)
    if words := spoken_words(step):
        _start_over(step, words, step.input.via)
    elif step.is_awaited and endpointing.is_quiet(step):
        _speak_if_it_waits(step)


def final_is_missing(step: StepBuilder) -> None:
    """TIMER_FIRED `stt_deadline` in THINKING: no final came, so start the turn over with the words of the last partial.
    If there is no partial, and a ready answer waits for the user's silence, speak the answer.
    """
    if words := step.state.partial_text.strip():
        _start_over(step, words, "speech")
    elif endpointing.is_quiet(step):
        _speak_if_it_waits(step)


def floor_deadline(step: StepBuilder) -> None:
    """TIMER_FIRED `floor_deadline`: the answer has waited long enough for the user to stop speaking, so speak it."""
    _speak_if_it_waits(step)


def filler(step: StepBuilder) -> None:
    """TIMER_FIRED `filler`: the answer takes a while, so speak the filler of the policy, such as "One moment, please."
    Do nothing while the user is speaking or another filler plays.
    """
    if endpointing.is_quiet(step) and not step.state.outstanding("PlayFiller"):
        play_filler(step)


def speech_started(step: StepBuilder) -> None:
    """SPEECH_STARTED in THINKING: stop the filler, because the user speaks on."""
    endpointing.speech_started(step)
    stop_playback(step)


def barge_in(step: StepBuilder) -> None:
    """BARGE_IN in THINKING: stop the filler, because the user wants to speak. Reject the event if it names a playback
    other than the filler.
    """
    assert isinstance(step.input, BargeIn)
    playing = [command.target for command in step.state.outstanding("PlayFiller")]
    if step.input.playback_id and step.input.playback_id not in playing:
        step.reject("stale: names a playback that is not playing")
        return
    for playback_id in playing:
        step.do(StopPlayback(playback_id=playback_id))


def _task(step: StepBuilder) -> Turn:
    task = step.state.task
    assert task is not None, "THINKING lies within a turn"
    return task


def _join(step: StepBuilder) -> None:
    task = _task(step)
    if not task.is_processed and task.found.intent is not None and task.found.is_begun:
        _complete(step)


def _complete(step: StepBuilder, fallback: str = "") -> None:
    """Finish the work on the question (PROCESSING_COMPLETE), and speak the answer. If the user is speaking, the answer
    waits for silence, at most until `floor_deadline`. `fallback`: why the policy's fallback answer is spoken; empty:
    the service answered.

    Outstanding requests are cancelled. Exception: if the answer is not complete, the request for the answer continues
    while its first texts are spoken.
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


def _ends(step: StepBuilder, fallback: str) -> str:
    """Return the reason for which the session ends after this answer; empty: the session continues. A failed answer
    ends the session if too many answers in a row have failed. Any other answer ends the session if the user has said
    goodbye. `fallback`: why the answer failed; empty: the answer did not fail.
    """
    state, task = step.state, step.state.task
    if fallback:
        limit = state.policy.fallback.failures
        return TOO_MANY_FAILURES if limit and state.answer_failures >= limit else ""
    said_goodbye = task is not None and task.found.intent and task.found.intent == state.policy.goodbye.intent
    return "goodbye" if said_goodbye else ""


def _fallback(step: StepBuilder, ends: str) -> str:
    fallback = step.state.policy.fallback
    return fallback.goodbye if ends else fallback.answer


def _speak_if_it_waits(step: StepBuilder) -> None:
    if step.state.task is not None and step.state.task.is_processed:
        _speak(step, "")


def _speak(step: StepBuilder, reason: str) -> None:
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


def _start_over(step: StepBuilder, words: str, via: str) -> None:
    """Start the turn over, because the user has said `words`. `via`: "speech" or "text" (typed).

    If the policy says `merge`, and both the turn's words and the new words were spoken, the new words are appended to
    the turn's words. There are two exceptions. New words that begin with all of the turn's words replace the turn's
    words. A final that comes late replaces the words of its partial. In all other cases the new words alone are the
    question.
    """
    task = _task(step)
    merges = step.state.policy.thinking.more_words == "merge" and task.via == via == "speech"
    said = task.text.removesuffix(step.late_words).rstrip()
    joined = words if not said or begins_with(words, said) else f"{said} {words}"
    leave_turn(step)
    step.end_turn("merged" if merges else "superseded")
    begin_turn(step, joined[:HELD_CHARS].rstrip() if merges else words, via)
