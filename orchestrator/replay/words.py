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
    """Return the command's name if the event is COMMAND_ISSUED, else the type of the event."""
    kind: str = event.type  # type: ignore[attr-defined] # every concrete event has a type
    return event.name if isinstance(event, CommandIssued) else kind


def payload(event: Event) -> dict[str, Any]:
    """Return the fields of an event that are worth printing. For COMMAND_ISSUED: the payload of the command. For other
    events: the fields of this type of event whose values are not the defaults.
    """
    if isinstance(event, CommandIssued):
        return event.payload | ({"retry_of": event.retry_of} if event.retry_of else {})
    said = event.model_dump(exclude_defaults=True)
    return {field: said[field] for field in said if field not in ENVELOPE}


def short(event: Event, longest: int = LONGEST) -> str:
    """Format an event on one line, such as `StartTimer(due_at_us=50, timer="endpoint")`."""
    of_what = {"command_id"} if isinstance(event, CommandIssued) else set()  # too long; other fields name the command
    said = ", ".join(f"{k}={value(v, longest)}" for k, v in payload(event).items() if k not in of_what)
    return f"{name(event)}({said})"


def value(content: object, longest: int = LONGEST) -> str:
    """Format a value as JSON. After `longest` characters, the text is cut, and the number of missing characters is
    added: `…(+12 chars)`. `longest` 0: cut nothing.
    """
    text = to_json(content, fallback=str).decode()
    return f"{text[:longest]}…(+{len(text) - longest} chars)" if longest and len(text) > longest else text


def seconds(us: int) -> str:
    return f"t=+{us // 1_000_000}.{us % 1_000_000 // 1000:03} s"


def state_fields(state: State) -> dict[str, Any]:
    """Return a state as JSON: all its fields except the policy, and its hash as `hash`. `pending` maps the id of each
    outstanding command to a short text.
    """
    told = {field.name: getattr(state, field.name) for field in fields(State) if field.name != "policy"}
    found: dict[str, Any] = to_jsonable_python(told, fallback=str)
    found["pending"] = {command_id: short(command) for command_id, command in state.pending.items()}
    return found | {"hash": state.hash()}
