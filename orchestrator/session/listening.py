"""Decisions in LISTENING, about the user's words and silence."""

from events.inputs import SttFinal
from orchestrator.session import announcements, endpointing, speculation
from orchestrator.session.phases import enter
from orchestrator.session.step import Step
from orchestrator.session.thinking import begin_turn
from orchestrator.session.utterance import spoken_words


def listen(step: Step, reason: str = "") -> None:
    """Enter LISTENING. Then say goodbye if the time limit is over, or start a turn with the words said during the
    interruption, or start the timer of the user's silence.
    """
    enter(step, "LISTENING", reason)
    if step.state.limits:
        announcements.bid_farewell(step, "time_limit")
    elif step.state.held_text:
        begin_turn(step, step.state.held_text, step.state.held_via)
    else:
        announcements.expect_words(step)


def speech_started(step: Step) -> None:
    """SPEECH_STARTED in LISTENING: stop the `away` timer and the wait for the end of the utterance: the user speaks."""
    step.disarm("away")
    endpointing.speech_started(step)


def speech_stopped(step: Step) -> None:
    """SPEECH_STOPPED in LISTENING: start the wait for the end of the utterance, and the timer of the user's silence.
    Ask the services about the words early, if the policy allows it.
    """
    endpointing.speech_stopped(step)
    speculation.speech_stopped(step)
    announcements.expect_words(step)


def partial(step: Step) -> None:
    """STT_PARTIAL in LISTENING: adjust the wait for the end of the utterance to the new words, and ask the services
    about the words early, if the policy allows it.
    """
    endpointing.partial(step)
    speculation.partial(step)


def final(step: Step) -> None:
    """STT_FINAL in LISTENING: start a turn with the words. If an awaited final is empty, wait for the next words."""
    assert isinstance(step.input, SttFinal)
    if words := spoken_words(step):
        begin_turn(step, words, step.input.via)
    elif step.is_awaited:
        _nothing_was_said(step)


def final_is_missing(step: Step) -> None:
    """TIMER_FIRED `stt_deadline` in LISTENING: no final came, so start a turn with the last partial. Without a partial,
    ask the user to repeat, if speech-to-text has failed.
    """
    if words := step.state.partial_text.strip():
        begin_turn(step, words, "speech")
    elif not announcements.ask_again(step):
        _nothing_was_said(step)


def _nothing_was_said(step: Step) -> None:
    speculation.drop(step)
    announcements.expect_words(step)


def final_while_interrupting(step: Step) -> None:
    """STT_FINAL in INTERRUPT: reject an empty or repeated final. evolve holds the words of any other until LISTENING,
    where they open the next turn.
    """
    spoken_words(step)
