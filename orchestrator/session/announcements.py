"""What the agent says of its own accord: the greeting, a prompt for a silent user, the farewell."""

from orchestrator.session import speculation
from orchestrator.session.commands import Speak
from orchestrator.session.endpointing import is_quiet
from orchestrator.session.phases import enter, speak
from orchestrator.session.step import Step


def expect_greeting(step: Step) -> None:
    """The first client is connected; its voice may follow."""
    greeting = step.state.policy.greeting
    if greeting.text:
        step.arm("greeting", greeting.wait_ms)


def greet(step: Step) -> None:
    """TIMER_FIRED `greeting`, or the voice is there: the agent speaks first, unless the user does."""
    step.disarm("greeting")
    if is_quiet(step):
        _announce(step, "greeting", step.state.policy.greeting.text, "greeting")


def expect_words(step: Step) -> None:
    """In LISTENING, in a call with a voice: the user may stay silent for so long."""
    rules = step.state.policy.away
    if rules.text and step.state.handler_id:
        step.arm("away", rules.after_ms)


def away(step: Step) -> None:
    """TIMER_FIRED `away`: ask whether the user is there; after some prompts, say goodbye. One who is speaking is."""
    rules = step.state.policy.away
    if not is_quiet(step):
        return
    if step.state.away_prompts < rules.prompts:
        _announce(step, f"away-{step.state.inputs}", rules.text, "user_away")
    else:
        bid_farewell(step, "user_away")


def limit_reached(step: Step) -> None:
    """TIMER_FIRED `session_limit` in LISTENING: say goodbye; a user who is speaking is waited for, but not for ever."""
    if is_quiet(step) or step.state.limits > 1:
        bid_farewell(step, "time_limit")
    else:
        step.arm("session_limit", step.state.policy.deadlines.floor_ms)


def bid_farewell(step: Step, ends: str) -> None:
    """Say the last words; the session ends with them."""
    _announce(step, f"farewell-{step.state.inputs}", step.state.policy.goodbye.text, ends, ends)


def _announce(step: Step, playback_id: str, text: str, reason: str, ends: str = "") -> None:
    speculation.drop(step)
    step.disarm("away", "greeting", "stable")
    enter(step, "SPEAKING", reason)
    speak(step, Speak(ends=ends, from_ms=0, playback_id=playback_id, text=text))
