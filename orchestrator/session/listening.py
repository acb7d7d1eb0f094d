"""Decisions in LISTENING, about the user's words and silence."""

from events.inputs import SttFinal
from orchestrator.session import announcements, endpointing, speculation
from orchestrator.session.phases import enter
from orchestrator.session.step import Step
from orchestrator.session.thinking import begin_turn
from orchestrator.session.utterance import spoken_words


def listen(step: Step, reason: str = "") -> None:
    """Enter LISTENING. A conversation past its time limit says goodbye; held words open the next turn."""
    enter(step, "LISTENING", reason)
    if step.state.limits:
        announcements.bid_farewell(step, "time_limit")
    elif step.state.held_text:
        begin_turn(step, step.state.held_text, step.state.held_via)
    else:
        announcements.expect_words(step)


def speech_started(step: Step) -> None:
    """SPEECH_STARTED: the user is there, and goes on."""
    step.disarm("away")
    endpointing.speech_started(step)


def speech_stopped(step: Step) -> None:
    """SPEECH_STOPPED: start the wait for the end of the utterance."""
    endpointing.speech_stopped(step)
    speculation.speech_stopped(step)
    announcements.expect_words(step)


def partial(step: Step) -> None:
    """STT_PARTIAL: more words."""
    endpointing.partial(step)
    speculation.partial(step)


def final(step: Step) -> None:
    """STT_FINAL in LISTENING: it opens a turn; an empty one says that there were no words."""
    assert isinstance(step.input, SttFinal)
    if words := spoken_words(step):
        begin_turn(step, words, step.input.via)
    elif step.is_awaited:
        _nothing_was_said(step)


def final_is_missing(step: Step) -> None:
    """TIMER_FIRED `stt_deadline` in LISTENING: no final came, so the last partial counts as one."""
    if words := step.state.partial_text.strip():
        begin_turn(step, words, "speech")
    elif not announcements.ask_again(step):
        _nothing_was_said(step)


def _nothing_was_said(step: Step) -> None:
    speculation.drop(step)
    announcements.expect_words(step)


def final_while_interrupting(step: Step) -> None:
    """STT_FINAL in INTERRUPT: evolve holds it until LISTENING."""
    spoken_words(step)
