"""Endpointing: decides when an utterance is complete. Speech-to-text is then asked for the final transcript."""

from orchestrator.session.commands import FinishUtterance
from orchestrator.session.pauses import wait_ms
from orchestrator.session.phrases import ends_with
from orchestrator.session.state import State
from orchestrator.session.step import StepBuilder


def speech_started(step: StepBuilder) -> None:
    """SPEECH_STARTED: the user speaks on, so stop the wait for the end of the utterance (timer `endpoint`) and the wait
    for its final (timer `stt_deadline`). If there is a partial already, start `endpoint` again, as a watchdog: once the
    words of the partial have not changed for `watchdog_ms`, the utterance ends, even if the VAD still hears speech.
    """
    step.disarm("endpoint", "stt_deadline")
    if step.state.partial_text:
        step.arm("endpoint", step.state.policy.endpointing.watchdog_ms)


def speech_stopped(step: StepBuilder) -> None:
    """SPEECH_STOPPED: start the timer `endpoint`. The timer ends the utterance if the user says no more."""
    step.arm_at("endpoint", due_at_us(step.state))


def partial(step: StepBuilder) -> None:
    """STT_PARTIAL: if the user has stopped speaking, adjust the wait for the end of the utterance (timer `endpoint`) to
    the words of the partial. If the user is speaking, and `endpoint` is not running, start `endpoint` as a watchdog: it
    ends an utterance whose words no longer change.
    """
    state = step.state
    armed = state.timer("endpoint")
    if state.user_is_speaking:
        if armed is None:
            step.arm("endpoint", state.policy.endpointing.watchdog_ms)
    elif armed is not None:
        due_us = max(state.at_us, due_at_us(state))
        if due_us != armed.payload["due_at_us"]:
            step.arm_at("endpoint", due_us)


def endpoint(step: StepBuilder) -> None:
    """TIMER_FIRED `endpoint`: finish the utterance, and ask speech-to-text for its final. If the user is still
    speaking, and the words have changed within the last `watchdog_ms`, only start the timer again.
    """
    state = step.state
    again_us = state.partial_at_us + state.policy.endpointing.watchdog_ms * 1000
    if state.user_is_speaking and again_us > state.at_us:
        step.arm_at("endpoint", again_us)
        return
    step.do(FinishUtterance())
    step.arm("stt_deadline", state.policy.deadlines.stt_ms)


def due_at_us(state: State) -> int:
    """Return when the utterance is over if the user says no more: microseconds, on the same clock as the `at_us` of
    events.
    """
    rules, stopped_us = state.policy.endpointing, state.speech_stopped_at_us
    complete_us = stopped_us + rules.complete_ms * 1000
    incomplete_us = stopped_us + wait_ms(rules, state.pause_ms) * 1000
    if state.partial_is_complete or ends_with(state.partial_text, rules.phrases):
        return complete_us
    if rules.stable_ms and state.partial_text:
        return min(incomplete_us, max(complete_us, state.partial_at_us + rules.stable_ms * 1000))
    return incomplete_us


def is_quiet(step: StepBuilder) -> bool:
    """Whether the user is silent and no transcript of their words is pending."""
    return not step.state.user_is_speaking and not step.state.armed("endpoint", "stt_deadline")
