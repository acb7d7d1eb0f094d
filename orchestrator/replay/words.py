"""Short texts for events, commands and states, used by all reports."""

from dataclasses import fields
from typing import Any

from pydantic_core import to_json, to_jsonable_python

from events.derived import CommandIssued
from events.envelope import Event, Input
from orchestrator.session.state import State

LONGEST = 60
ENVELOPE = {*Event.model_fields, *Input.model_fields, "type"}


def name(event: Event) -> str:
    """A command's name, or the type of an event."""
    kind: str = event.type  # type: ignore[attr-defined] # every concrete event has a type
    return event.name if isinstance(event, CommandIssued) else kind


def payload(event: Event) -> dict[str, Any]:
    """Fields of an event beyond its envelope: a command's payload, or an event's non-default fields."""
    if isinstance(event, CommandIssued):
        return event.payload | ({"retry_of": event.retry_of} if event.retry_of else {})
    said = event.model_dump(exclude_defaults=True)
    return {field: said[field] for field in said if field not in ENVELOPE}


def short(event: Event, longest: int = LONGEST) -> str:
    """One event on one line, such as `StartTimer(due_at_us=50, timer="endpoint")`."""
    of_what = {"command_id"} if isinstance(event, CommandIssued) else set()  # long, and the target says it
    said = ", ".join(f"{k}={value(v, longest)}" for k, v in payload(event).items() if k not in of_what)
    return f"{name(event)}({said})"


def value(content: object, longest: int = LONGEST) -> str:
    """A value as JSON, cut to `longest` characters with the number cut off; 0 cuts nothing."""
    text = to_json(content, fallback=str).decode()
    return f"{text[:longest]}…(+{len(text) - longest} chars)" if longest and len(text) > longest else text


def seconds(us: int) -> str:
    return f"t=+{us // 1_000_000}.{us % 1_000_000 // 1000:03} s"


def state_fields(state: State) -> dict[str, Any]:
    """A state as JSON: every field but the policy, outstanding commands by id, and the state hash."""
    told = {field.name: getattr(state, field.name) for field in fields(State) if field.name != "policy"}
    found: dict[str, Any] = to_jsonable_python(told, fallback=str)
    found["pending"] = {command_id: short(command) for command_id, command in state.pending.items()}
    return found | {"hash": state.hash()}
