"""Answers of the console to what-if questions, with the functions and the JSON of `orch replay --set`."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydantic import ValidationError

from events.envelope import Event, Input
from orchestrator.console.drawing import drawn
from orchestrator.policy_file import setting_problem
from orchestrator.policy_schema import policy_fields
from orchestrator.replay import comparison
from orchestrator.replay.change import Change
from orchestrator.replay.comparison import Comparison
from orchestrator.replay.what_if import what_if

STATES = ("steps",)
"""Parts of a page that two traces beside each other do not need."""


class BadChangeError(ValueError):
    """A change cannot be tried; the message says which value is wrong and what to write."""


def change_of(asked: Any, log: Sequence[Event] = ()) -> Change:
    """Read a change: `{"settings": {"interruption": {"min_words": 2}}, "without": [41]}`. Raises BadChangeError."""
    settings, without = (asked.get("settings", {}), asked.get("without", [])) if isinstance(asked, dict) else ({}, 0)
    if not isinstance(without, list) or not isinstance(settings, dict):
        raise BadChangeError("write settings as an object and without as a list of versions")
    if not all(isinstance(fields, dict) for fields in settings.values()):
        raise BadChangeError("write settings as PART: {FIELD: VALUE}")
    ids = {event.version: event.event_id for event in log if isinstance(event, Input)}
    if unknown := [version for version in without if version not in ids]:
        raise BadChangeError(f"version {unknown[0]} is no input of this session; only inputs can be left out")
    return Change(settings=settings, without=frozenset(ids[version] for version in without))


def compared(log: list[Event], change: Change, source: str) -> Comparison:
    """A session under a change, beside itself. Raises BadChangeError, UnsoundLogError."""
    try:
        new = what_if(log, change)
    except ValidationError as error:
        raise BadChangeError(setting_problem(error)) from error
    return Comparison.of(source, log, new)


def both(found: Comparison) -> dict[str, Any]:
    """Both traces as pages, and the report of the command line."""
    pages = [{name: part for name, part in drawn(log).items() if name not in STATES} for log in (found.old, found.new)]
    return {"new": pages[1], "old": pages[0], "report": comparison.as_json([found])}


async def totals(found: AsyncIterator[tuple[str, Comparison | str]]) -> AsyncIterator[dict[str, Any]]:
    """One report for each session of a selection as it is done, then the sum. Names of sessions come with each. A text
    instead of a comparison says why the session could not be compared; such sessions are not in the sum.
    """
    done: list[Comparison] = []
    async for key, one in found:
        if isinstance(one, str):
            yield {"key": key, "problem": one}
            continue
        done.append(one)
        yield {"key": key} | one.as_json()
    changes = {name: list(pair) for name, pair in comparison.changes(done).items()}
    waits = [None if one == "none" else int(one) for one in comparison.waits(done)]
    yield {"changes": changes, "sessions": len(done), "wait_ms": waits}


def policy_form() -> list[dict[str, Any]]:
    """The fields of the policy for a form: name, description, type, range and default."""
    kept = ("default", "description", "enum", "maximum", "minimum", "type")
    return [
        {"part": part, "field": field} | {key: schema[key] for key in kept if key in schema}
        for part, fields in policy_fields().items()
        for field, schema in fields.items()
        if schema.get("type") in ("integer", "boolean", "string") and not schema.get("anyOf")
    ]
