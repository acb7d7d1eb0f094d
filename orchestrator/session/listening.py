"""Decisions about the user's words: endpointing, and the utterance that opens a turn."""

from events.derived import TurnStarted
from events.inputs import SttFinal
from orchestrator.session.commands import FinishUtterance
from orchestrator.session.phases import enter
from orchestrator.session.step import Step


def speech_started(step: Step) -> None:
    """SPEECH_STARTED: the user goes on, so the utterance is not complete yet."""
    step.disarm("endpoint", "stt_deadline")


def speech_stopped(step: Step) -> None:
    """SPEECH_STOPPED: wait whether the user goes on."""
    step.arm("endpoint", step.state.policy.endpointing.delay_ms)


def endpoint(step: Step) -> None:
    """TIMER_FIRED `endpoint`: the user has finished."""
    step.do(FinishUtterance())
    step.arm("stt_deadline", step.state.policy.deadlines.stt_ms)


def final(step: Step) -> None:
    """STT_FINAL in LISTENING: it opens a turn."""
    if words := spoken_words(step):
        begin_turn(step, words, step.input.via)  # type: ignore[attr-defined]


def final_is_missing(step: Step) -> None:
    """TIMER_FIRED `stt_deadline` in LISTENING: what was understood so far is all there will be."""
    if words := step.state.partial_text.strip():
        begin_turn(step, words, "speech")


def final_while_interrupting(step: Step) -> None:
    """STT_FINAL in INTERRUPT: evolve holds it until LISTENING."""
    spoken_words(step)


def begin_turn(step: Step, text: str, via: str) -> None:
    """An utterance counts: a turn starts, and THINKING with it."""
    step.disarm("endpoint", "stt_deadline")
    step.say(TurnStarted, text=text, via=via)
    enter(step, "THINKING")


def spoken_words(step: Step) -> str:
    """The words of an STT_FINAL; an empty one is rejected, unless it is what was waited for."""
    assert isinstance(step.input, SttFinal)
    words = step.input.text.strip()
    if not words and step.state.timer("stt_deadline") is None:
        step.reject("empty text")
    step.disarm("stt_deadline")
    return words
