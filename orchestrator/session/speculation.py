"""Speculation: asks the services before the utterance is complete. The turn speaks the answer later."""

from orchestrator.session.commands import QUESTIONS, AnswerQuestion, CancelStage, ClassifyIntent
from orchestrator.session.phrases import are_alike
from orchestrator.session.step import StepBuilder


def speech_stopped(step: StepBuilder) -> None:
    """SPEECH_STOPPED in LISTENING: if the policy allows speculation, ask the services about the words of the last
    partial.
    """
    _ask(step)


def partial(step: StepBuilder) -> None:
    """STT_PARTIAL in LISTENING: ask the services about the words of the partial if the recogniser marks the partial as
    complete, or if the user is silent and the timer `endpoint` runs. Otherwise, if the policy has `stable_ms`, start
    the timer `stable`: the services are asked once the words have not changed for `stable_ms`.
    """
    rules, state = step.state.policy.speculation, step.state
    is_over = not state.user_is_speaking and state.timer("endpoint") is not None
    if state.partial_is_complete or is_over:
        _ask(step)
    elif rules.tries and rules.stable_ms and state.timer("stable") is None:
        step.arm("stable", rules.stable_ms)


def stable(step: StepBuilder) -> None:
    """TIMER_FIRED `stable`: ask the services about the words of the last partial. If these words have changed within
    the last `stable_ms`, restart the timer instead.
    """
    state = step.state
    stable_at_us = state.partial_at_us + state.policy.speculation.stable_ms * 1000
    if stable_at_us > state.at_us:
        step.arm_at("stable", stable_at_us)
    else:
        _ask(step)


def answer_text(step: StepBuilder) -> None:
    """ANSWER_TEXT in LISTENING: keep the text for the turn. Reject a text that is not the next text of the answer."""
    if not step.is_next_text:
        step.reject("not the next text of the answer")


def failed(step: StepBuilder) -> None:
    """SERVICE_FAILED in LISTENING: cancel the speculation. The turn will ask the services again."""
    drop(step)


def adopt(step: StepBuilder, text: str) -> int:
    """Return the number of the speculation if it is about the words `text`: the turn then takes over the speculation's
    results. Otherwise cancel the speculation and return 0.
    """
    guess = step.state.speculation
    if guess is not None and are_alike(guess.text, text):
        return guess.number
    drop(step)
    return 0


def drop(step: StepBuilder) -> None:
    """Cancel the outstanding questions of the speculation. Do nothing if a turn is open: all outstanding questions are
    then of the turn.
    """
    if step.state.task is None:
        for command in step.state.outstanding(*QUESTIONS):
            step.do(CancelStage(command_id=command.command_id, stage_name=command.target))


def _ask(step: StepBuilder) -> None:
    state = step.state
    text, number = state.partial_text.strip(), state.tries + 1
    asked = state.speculation is not None and are_alike(state.speculation.text, text)
    if asked or not text or number > state.policy.speculation.tries:
        return
    drop(step)
    if not state.policy.intent.skip:
        step.do(ClassifyIntent(speculation=number, text=text))
    step.do(AnswerQuestion(conversation_to=step.input.version - 1, speculation=number, text=text))
