"""Decisions in LISTENING about the user's words and silence; also the decision in INTERRUPT about a final."""

from events.inputs import SttFinal
from orchestrator.session import announcements, endpointing, speculation
from orchestrator.session.phases import enter
from orchestrator.session.step import StepBuilder
from orchestrator.session.thinking import begin_turn
from orchestrator.session.utterance import spoken_words


def listen(step: StepBuilder, reason: str = "") -> None:
    """Enter LISTENING; the phase change records `reason`. Then, if the time limit of the session (timer
    `session_limit`) was reached before, say goodbye. Otherwise, if the user said words during an interruption, start a
    turn with these words. Otherwise start the limit of the user's silence (timer `away`).
    """
    enter(step, "LISTENING", reason)
    if step.state.limits:
        announcements.bid_farewell(step, "time_limit")
    elif step.state.held_text:
        begin_turn(step, step.state.held_text, step.state.held_via)
    else:
        announcements.expect_words(step)


def speech_started(step: StepBuilder) -> None:
    """SPEECH_STARTED in LISTENING: the user speaks, so stop the limit of the user's silence (timer `away`) and the wait
    for the end of the utterance (timer `endpoint`).
    """
    step.disarm("away")
    endpointing.speech_started(step)


def speech_stopped(step: StepBuilder) -> None:
    """SPEECH_STOPPED in LISTENING: start the wait for the end of the utterance (timer `endpoint`) and the limit of the
    user's silence (timer `away`). If the policy allows speculation, ask the services about the words so far.
    """
    endpointing.speech_stopped(step)
    speculation.speech_stopped(step)
    announcements.expect_words(step)


def partial(step: StepBuilder) -> None:
    """STT_PARTIAL in LISTENING: adjust the wait for the end of the utterance (timer `endpoint`) to the new words. If
    the policy allows speculation, ask the services about the words so far.
    """
    endpointing.partial(step)
    speculation.partial(step)


def final(step: StepBuilder) -> None:
    """STT_FINAL in LISTENING: start a turn with the words. A final without new words (empty, or its words have counted
    already) starts no turn. If the session has waited for this final (timer `stt_deadline`), the user said nothing new:
    cancel the speculation, and start the limit of the user's silence (timer `away`). Otherwise reject the final.
    """
    assert isinstance(step.input, SttFinal)
    if words := spoken_words(step):
        begin_turn(step, words, step.input.via)
    elif step.is_awaited:
        _nothing_was_said(step)


def final_is_missing(step: StepBuilder) -> None:
    """TIMER_FIRED `stt_deadline` in LISTENING: no final came, so start a turn with the words of the last partial. If
    there are no words, and speech-to-text has failed, ask the user to repeat. If there are no words, and speech-to-text
    has not failed, the user said nothing: cancel the speculation, and start the limit of the user's silence (timer
    `away`).
    """
    if words := step.state.partial_text.strip():
        begin_turn(step, words, "speech")
    elif not announcements.ask_again(step):
        _nothing_was_said(step)


def _nothing_was_said(step: StepBuilder) -> None:
    speculation.drop(step)
    announcements.expect_words(step)


def final_while_interrupting(step: StepBuilder) -> None:
    """STT_FINAL in INTERRUPT: stop the wait for a final (timer `stt_deadline`). New words open the turn after
    INTERRUPT: `evolve` has stored them in `held_text`. Reject a final without new words (empty, or its words have
    counted already), unless the session has waited for this final.
    """
    spoken_words(step)
