"""Speculation: intent and answer are asked before the utterance is complete. Nothing is spoken before it is."""

from orchestrator.session.commands import AnswerQuestion, CancelStage, ClassifyIntent
from orchestrator.session.phrases import normal
from orchestrator.session.step import Step


def speech_stopped(step: Step) -> None:
    """SPEECH_STOPPED in LISTENING: silence says that the words are stable."""
    _ask(step)


def partial(step: Step) -> None:
    """STT_PARTIAL in LISTENING: words that are complete, or come after the speech, are asked about now, others once
    they have not changed for a while.
    """
    rules, state = step.state.policy.speculation, step.state
    is_over = not state.user_is_speaking and state.timer("endpoint") is not None
    if state.partial_is_complete or is_over:
        _ask(step)
    elif rules.tries and rules.stable_ms and state.timer("stable") is None:
        step.arm("stable", rules.stable_ms)


def stable(step: Step) -> None:
    """TIMER_FIRED `stable`: ask about the words, unless they have changed meanwhile."""
    state = step.state
    stable_at_us = state.partial_at_us + state.policy.speculation.stable_ms * 1000
    if stable_at_us > state.at_us:
        step.arm_at("stable", stable_at_us)
    else:
        _ask(step)


def failed(step: Step) -> None:
    """SERVICE_FAILED in LISTENING: a question that was asked too early is no loss; the turn will ask anew."""
    drop(step)


def adopt(step: Step, text: str) -> int:
    """The try that asked about these very words; 0: none did, and what was asked is dropped."""
    guess = step.state.speculation
    if guess is not None and normal(guess.text) == normal(text):
        return guess.number
    drop(step)
    return 0


def drop(step: Step) -> None:
    """Withdraw the questions that were asked too early."""
    if step.state.task is None:
        for command in step.state.outstanding("ClassifyIntent", "AnswerQuestion"):
            step.do(CancelStage(command_id=command.command_id, stage_name=command.target))


def _ask(step: Step) -> None:
    state = step.state
    text, number = state.partial_text.strip(), state.tries + 1
    asked = state.speculation is not None and normal(state.speculation.text) == normal(text)
    if asked or not text or number > state.policy.speculation.tries:
        return
    drop(step)
    if not state.policy.intent.skip:
        step.do(ClassifyIntent(speculation=number, text=text))
    step.do(AnswerQuestion(conversation_to=step.input.version - 1, speculation=number, text=text))
