"""Announcements, which the agent speaks unasked: greeting, prompt to a silent user, apology, farewell."""

from events.inputs import HearingFailed
from orchestrator.session import speculation
from orchestrator.session.commands import Speak
from orchestrator.session.endpointing import is_quiet
from orchestrator.session.phases import enter, speak
from orchestrator.session.step import Step
from orchestrator.session.thinking import TOO_MANY_FAILURES


def expect_greeting(step: Step) -> None:
    """Start the `greeting` timer when the first client connects. The greeting waits that long for the client's media
    connection.
    """
    greeting = step.state.policy.greeting
    if greeting.text:
        step.arm("greeting", greeting.wait_ms)


def greet(step: Step) -> None:
    """TIMER_FIRED `greeting`, or a new media connection: speak the greeting, unless the user has begun to speak."""
    step.disarm("greeting")
    if is_quiet(step):
        _announce(step, "greeting", step.state.policy.greeting.text, "greeting")


def expect_words(step: Step) -> None:
    """Start the `away` timer, which limits the user's silence in LISTENING. Only with a media connection, and if the
    policy has a prompt for a silent user.
    """
    rules = step.state.policy.away
    if rules.text and step.state.handler_id:
        step.arm("away", rules.after_ms)


def away(step: Step) -> None:
    """TIMER_FIRED `away`: ask a silent user whether they are there; after some such prompts without a reply, say
    goodbye. Do nothing while the user is speaking.
    """
    rules = step.state.policy.away
    if not is_quiet(step):
        return
    if step.state.away_prompts < rules.prompts:
        _announce(step, f"away-{step.state.inputs}", rules.text, "user_away")
    else:
        bid_farewell(step, "user_away")


def hearing_failed(step: Step) -> None:
    """HEARING_FAILED in LISTENING: apologise to the user, if speech-to-text has lost an utterance."""
    assert isinstance(step.input, HearingFailed)
    if step.input.is_utterance_lost:
        ask_again(step)


def ask_again(step: Step) -> bool:
    """Apologise for not having heard the user, if speech-to-text has failed since it last recognised words; say goodbye
    after too many failures in a row. Returns whether anything is said: nothing while the user is speaking.
    """
    failures, fallback = step.state.hearing_failures, step.state.policy.fallback
    if not is_quiet(step):
        return False
    if failures and fallback.failures and failures >= fallback.failures:
        _announce(step, f"farewell-{step.state.inputs}", fallback.goodbye, TOO_MANY_FAILURES, TOO_MANY_FAILURES)
    elif failures and fallback.unheard:
        _announce(step, f"unheard-{step.state.inputs}", fallback.unheard, "unheard")
    else:
        return False
    return True


def limit_reached(step: Step) -> None:
    """TIMER_FIRED `session_limit` in LISTENING: say goodbye. If the user is speaking, wait `floor_ms` more, but only
    once.
    """
    if is_quiet(step) or step.state.limits > 1:
        bid_farewell(step, "time_limit")
    else:
        step.arm("session_limit", step.state.policy.deadlines.floor_ms)


def bid_farewell(step: Step, ends: str) -> None:
    """Speak the farewell. The session ends with its playback, for the reason `ends`."""
    _announce(step, f"farewell-{step.state.inputs}", step.state.policy.goodbye.text, ends, ends)


def _announce(step: Step, playback_id: str, text: str, reason: str, ends: str = "") -> None:
    speculation.drop(step)
    step.disarm("away", "greeting", "stable")
    enter(step, "SPEAKING", reason)
    speak(step, Speak(ends=ends, from_ms=0, playback_id=playback_id, text=text))
