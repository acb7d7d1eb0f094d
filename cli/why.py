"""`orch why`: what an event came from, and what would have had to be different."""

import json

from cli.sources import whole
from events.envelope import Event
from orchestrator.replay.place import event_at
from orchestrator.replay.replay import events_of
from orchestrator.replay.why import Cause, Why, why
from orchestrator.replay.why import as_json as report
from orchestrator.replay.words import seconds, short

NEEDED = "   ✓ without it, it is decided otherwise"


def run(source: str, place: str, *, as_json: bool) -> int:
    events = events_of(whole(source))
    event = event_at(events, place)
    log = [one for one in events if one.session_id == event.session_id]
    found = why(log, event.version)
    if as_json:
        print(json.dumps(report(found), ensure_ascii=False, indent=2))
        return 0
    for line in lines(found, log[0].at_us):
        print(line)
    return 0


def lines(found: Why, opened_us: int) -> list[str]:
    """The chain from the event back to its beginning, the proof, and the conditions."""
    first, *rest = found.chain
    shown = [_event(first.event, opened_us)]
    for depth, cause in enumerate(rest, 1):
        shown.append(f"{'  ' * depth}because {_event(cause.event, opened_us)}{_proof(cause)}")
    if not found.is_decided:
        return [*shown, "today's reducer does not decide this event; `orch replay` names the first difference"]
    shown += [f"and because of {_event(event, opened_us)}{NEEDED}" for event in found.also]
    if found.beside is not None:
        shown.append(f"not because of {_event(found.beside, opened_us)}   (without it, the same is decided)")
    shown.append(f"decided in {found.phase}; it would have been otherwise, had there been")
    shown += [f"  {c.what}: {c.with_} instead of {c.was}  → {c.then}" for c in found.conditions]
    if not found.conditions:
        shown.append("  another input: nothing else was looked at")
    return shown


def _event(event: Event, opened_us: int) -> str:
    return f"[{event.version}] {short(event)}  {seconds(event.at_us - opened_us)}"


def _proof(cause: Cause) -> str:
    if cause.is_needed is None:
        return ""
    return NEEDED if cause.is_needed else "   (without it, the same is decided)"
