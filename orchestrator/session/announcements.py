"""Announcements: words that the agent speaks unasked, such as a greeting, a prompt to a silent user or a farewell."""

from events.inputs import HearingFailed
from orchestrator.session import speculation
from orchestrator.session.commands import Speak
from orchestrator.session.endpointing import is_quiet
from orchestrator.session.phases import enter, speak
from orchestrator.session.step import StepBuilder
from orchestrator.session.thinking import TOO_MANY_FAILURES


def expect_greeting(step: StepBuilder) -> None:
    """Start the `greeting` timer, if the policy has a greeting. The agent speaks the greeting when a media connection
    comes or, at the latest, when the timer fires.
    """
    greeting = step.state.policy.greeting
    if greeting.text:
        step.arm("greeting", greeting.wait_ms)


def greet(step: StepBuilder) -> None:
    """TIMER_FIRED `greeting`, or a new media connection: speak the greeting, unless the user has begun to speak."""
    step.disarm("greeting")
    if is_quiet(step):
        _announce(step, "greeting", step.state.policy.greeting.text, "greeting")


def expect_words(step: StepBuilder) -> None:
    """Start the timer `away`, the limit for the user's silence. Do nothing if the session has no media connection, or
    if the policy has no prompt to a silent user.
    """
    rules = step.state.policy.away
    if rules.text and step.state.handler_id:
        step.arm("away", rules.after_ms)


def away(step: StepBuilder) -> None:
    """TIMER_FIRED `away`: ask the silent user whether they are there or, after the policy's number of prompts, say
    goodbye. If the user is speaking, restart the timer. If a transcript is pending, do nothing.
    """
    rules = step.state.policy.away
    if step.state.user_is_speaking and step.state.has_rules_of(7):
        expect_words(step)
    elif not is_quiet(step):  # the decision about the transcript starts the timer again if the user said nothing
        return
    elif step.state.away_prompts < rules.prompts:
        _announce(step, f"away-{step.state.inputs}", rules.text, "user_away")
    else:
        bid_farewell(step, "user_away")


def hearing_failed(step: StepBuilder) -> None:
    """HEARING_FAILED in LISTENING: apologise (`ask_again`) if speech-to-text has lost an utterance. If the user was
    silent, no utterance is lost. Do nothing, too, if the words of the last partial have counted in place of the final.
    """
    assert isinstance(step.input, HearingFailed)
    if step.input.is_utterance_lost and not step.state.late_words(step.state.at_us):
        ask_again(step)


def ask_again(step: StepBuilder) -> bool:
    """Apologise if speech-to-text has lost an utterance since the last turn. After too many lost utterances in a row,
    say goodbye. Say nothing while the user is speaking or a transcript is pending, or if the policy has no apology.
    Returns whether the agent says anything.
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


def limit_reached(step: StepBuilder) -> None:
    """TIMER_FIRED `session_limit` in LISTENING: say goodbye. If the user is speaking, start the timer again, for
    `floor_ms`. When it fires again, say goodbye even if the user is speaking.
    """
    if is_quiet(step) or step.state.limits > 1:
        bid_farewell(step, "time_limit")
    else:
        step.arm("session_limit", step.state.policy.deadlines.floor_ms)


def bid_farewell(step: StepBuilder, ends: str) -> None:
    """Speak the farewell. When the playback of the farewell is over, the session ends for the reason `ends`."""
    _announce(step, f"farewell-{step.state.inputs}", step.state.policy.goodbye.text, ends, ends)


def _announce(step: StepBuilder, playback_id: str, text: str, reason: str, ends: str = "") -> None:
    speculation.drop(step)
    step.disarm("away", "greeting", "stable")
    enter(step, "SPEAKING", reason)
    speak(step, Speak(ends=ends, from_ms=0, playback_id=playback_id, text=text))
