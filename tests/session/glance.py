"""Looks at the last step of a conversation, so that a test can say whole what was done."""

from typing import Any, TypeVar

from events.derived import EventRejected
from events.envelope import Event
from orchestrator.session.commands import CancelStage, CancelTimer, Command, StartTimer
from orchestrator.testing.conversation import Conversation

E = TypeVar("E", bound=Event)


def arms(timer: str, due_ms: int) -> StartTimer:
    """The command that starts a timer, due so many milliseconds into the session."""
    return StartTimer(due_at_us=due_ms * 1000, timer=timer)


def cancels(timer: str) -> CancelTimer:
    """The command that withdraws a timer, as `done` shows it."""
    return CancelTimer(command_id="", timer=timer)


def withdraws(stage: str) -> CancelStage:
    """The command that withdraws a question, as `done` shows it."""
    return CancelStage(command_id="", stage_name=stage)


def done(call: Conversation) -> list[Command]:
    """The commands of the last step; that a withdrawal names the right command, the fold of the log has shown."""
    return [_without_id(command) for command in call.commands]


def the(call: Conversation, kind: type[E]) -> E:
    """The one event of a kind in the last step."""
    (event,) = (event for event in call.last if isinstance(event, kind))
    return event


def refused(call: Conversation) -> str:
    """Why the last input was rejected; empty: it was not."""
    return "".join(event.reason for event in call.last if isinstance(event, EventRejected))


def due_ms(call: Conversation, timer: str) -> float:
    """When an armed timer is due, in milliseconds of the session."""
    due_at_us: Any = call.outstanding("StartTimer", timer).payload["due_at_us"]
    return due_at_us / 1000


def timers(call: Conversation) -> set[str]:
    """The armed timers."""
    return {command.target for command in call.state.outstanding("StartTimer")}


def _without_id(command: Command) -> Command:
    match command:
        case CancelTimer():
            return cancels(command.timer)
        case CancelStage():
            return withdraws(command.stage_name)
        case _:
            return command
