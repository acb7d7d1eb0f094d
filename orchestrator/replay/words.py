"""Events, commands and states in few words: what every report is made of."""

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
    kind: str = event.type  # type: ignore[attr-defined] # every concrete event has one
    return event.name if isinstance(event, CommandIssued) else kind


def payload(event: Event) -> dict[str, Any]:
    """What an event says beyond its envelope: of a command its payload, of others what is not as by default."""
    if isinstance(event, CommandIssued):
        return event.payload | ({"retry_of": event.retry_of} if event.retry_of else {})
    said = event.model_dump(exclude_defaults=True)
    return {field: said[field] for field in said if field not in ENVELOPE}


def short(event: Event, longest: int = LONGEST) -> str:
    """One event on one line, such as `StartTimer(due_at_us=50, timer="endpoint")`."""
    of_what = {"command_id"} if isinstance(event, CommandIssued) else set()  # long, and said by the target already
    said = ", ".join(f"{k}={value(v, longest)}" for k, v in payload(event).items() if k not in of_what)
    return f"{name(event)}({said})"


def value(content: object, longest: int = LONGEST) -> str:
    """A value as JSON. What is cut says how much; `longest` 0: nothing is."""
    text = to_json(content, fallback=str).decode()
    return f"{text[:longest]}…(+{len(text) - longest} chars)" if longest and len(text) > longest else text


def seconds(us: int) -> str:
    return f"t=+{us // 1_000_000}.{us % 1_000_000 // 1000:03} s"


def state_fields(state: State) -> dict[str, Any]:
    """A state as JSON: every field, the policy but its name left out, commands by their id."""
    told = {field.name: getattr(state, field.name) for field in fields(State) if field.name != "policy"}
    found: dict[str, Any] = to_jsonable_python(told, fallback=str)
    found["pending"] = {command_id: short(command) for command_id, command in state.pending.items()}
    return found | {"hash": state.hash()}
