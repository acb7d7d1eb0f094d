"""Speculation: asks for intent and answer before the utterance is complete. Nothing is spoken before that."""

from orchestrator.session.commands import QUESTIONS, AnswerQuestion, CancelStage, ClassifyIntent
from orchestrator.session.phrases import are_alike
from orchestrator.session.step import Step


def speech_stopped(step: Step) -> None:
    """SPEECH_STOPPED in LISTENING: ask the services about the words, which seldom change once the user is silent."""
    _ask(step)


def partial(step: Step) -> None:
    """STT_PARTIAL in LISTENING: ask the services about the words now if the words are complete or the speech has
    stopped. Otherwise ask once the words have not changed for `stable_ms`.
    """
    rules, state = step.state.policy.speculation, step.state
    is_over = not state.user_is_speaking and state.timer("endpoint") is not None
    if state.partial_is_complete or is_over:
        _ask(step)
    elif rules.tries and rules.stable_ms and state.timer("stable") is None:
        step.arm("stable", rules.stable_ms)


def stable(step: Step) -> None:
    """TIMER_FIRED `stable`: ask the services about the words; if the words have changed meanwhile, wait again."""
    state = step.state
    stable_at_us = state.partial_at_us + state.policy.speculation.stable_ms * 1000
    if stable_at_us > state.at_us:
        step.arm_at("stable", stable_at_us)
    else:
        _ask(step)


def answer_text(step: Step) -> None:
    """ANSWER_TEXT in LISTENING: keep the text for the turn. Reject it if it is not the next text of the answer."""
    if not step.is_next_text:
        step.reject("not the next text of the answer")


def failed(step: Step) -> None:
    """SERVICE_FAILED in LISTENING: withdraw the questions asked early. The turn will ask them again."""
    drop(step)


def adopt(step: Step, text: str) -> int:
    """Return the number of the speculation about these words, whose results the turn takes over; 0: there is none.
    Withdraw a speculation about other words.
    """
    guess = step.state.speculation
    if guess is not None and are_alike(guess.text, text):
        return guess.number
    drop(step)
    return 0


def drop(step: Step) -> None:
    """Withdraw the questions asked early that are outstanding, unless a turn is open."""
    if step.state.task is None:
        for command in step.state.outstanding(*QUESTIONS):
            step.do(CancelStage(command_id=command.command_id, stage_name=command.target))


def _ask(step: Step) -> None:
    state = step.state
    text, number = state.partial_text.strip(), state.tries + 1
    asked = state.speculation is not None and are_alike(state.speculation.text, text)
    if asked or not text or number > state.policy.speculation.tries:
        return
    drop(step)
    if not state.policy.intent.skip:
        step.do(ClassifyIntent(speculation=number, text=text))
    step.do(AnswerQuestion(conversation_to=step.input.version - 1, speculation=number, text=text))
