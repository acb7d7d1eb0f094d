"""Decisions in LISTENING about the user's words and silence; also the decision in INTERRUPT about a final."""

from events.inputs import SttFinal
from orchestrator.session import announcements, endpointing, speculation
from orchestrator.session.phases import enter
from orchestrator.session.step import StepBuilder
from orchestrator.session.thinking import begin_turn
from orchestrator.session.utterance import spoken_words


def listen(step: StepBuilder, reason: str = "") -> None:
    """Enter LISTENING; the phase change records `reason`. Then, if the time limit of the session was reached before,
    say goodbye. Otherwise, if the user said words during an interruption, start a turn with these words. Otherwise
    start the timer `away`, the limit for the user's silence.
    """
    enter(step, "LISTENING", reason)
    if step.state.limits:
        announcements.bid_farewell(step, "time_limit")
    elif step.state.held_text:
        begin_turn(step, step.state.held_text, step.state.held_via)
    else:
        announcements.expect_words(step)


def speech_started(step: StepBuilder) -> None:
    """SPEECH_STARTED in LISTENING: the user speaks, so stop the timer `away` (limit for the user's silence) and the
    wait for the end of the utterance (timer `endpoint`).
    """
    step.disarm("away")
    endpointing.speech_started(step)


def speech_stopped(step: StepBuilder) -> None:
    """SPEECH_STOPPED in LISTENING: start the wait for the end of the utterance (timer `endpoint`) and the timer `away`
    (limit for the user's silence). If the policy allows speculation, ask the services about the words so far.
    """
    endpointing.speech_stopped(step)
    speculation.speech_stopped(step)
    announcements.expect_words(step)


def partial(step: StepBuilder) -> None:
    """STT_PARTIAL in LISTENING: adjust the wait for the end of the utterance (timer `endpoint`) to the words of the
    partial. If the policy allows speculation, ask the services about these words.
    """
    endpointing.partial(step)
    speculation.partial(step)


def final(step: StepBuilder) -> None:
    """STT_FINAL in LISTENING: start a turn with the words of the final. If the final has no new words (it is empty, or
    its words have counted already), start no turn. Instead, if the session has waited for this final (timer
    `stt_deadline`), cancel the speculation, and start the timer `away` (limit for the user's silence). If the session
    has not waited for it, reject the final.
    """
    assert isinstance(step.input, SttFinal)
    if words := spoken_words(step):
        begin_turn(step, words, step.input.via)
    elif step.is_awaited:
        _nothing_was_said(step)


def final_is_missing(step: StepBuilder) -> None:
    """TIMER_FIRED `stt_deadline` in LISTENING: no final came, so start a turn with the words of the last partial. If
    there is no partial, and speech-to-text has lost an utterance, ask the user to repeat. Otherwise the user said
    nothing: cancel the speculation, and start the timer `away` (limit for the user's silence).
    """
    if words := step.state.partial_text.strip():
        begin_turn(step, words, "speech")
    elif not announcements.ask_again(step):
        _nothing_was_said(step)


def _nothing_was_said(step: StepBuilder) -> None:
    speculation.drop(step)
    announcements.expect_words(step)


def final_while_interrupting(step: StepBuilder) -> None:
    """STT_FINAL in INTERRUPT: stop the wait for a final (timer `stt_deadline`). The new words of the final open the
    next turn. Reject a final without new words, unless the session has waited for this final.
    """
    spoken_words(step)
