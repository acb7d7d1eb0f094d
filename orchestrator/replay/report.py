"""Reports of a replay: text for people, JSON for programs. The text may change; the JSON is versioned."""

from collections.abc import Iterator, Sequence
from shlex import quote
from typing import Any

from pydantic_core import to_jsonable_python

from events.codec import encode
from events.envelope import Event
from orchestrator.replay.divergence import Divergence
from orchestrator.replay.replay import Replay
from orchestrator.replay.verdict import Verdict
from orchestrator.replay.words import name, payload, seconds, short, state_fields, value
from orchestrator.safe_text import one_line
from orchestrator.session import REDUCER_VERSION

SCHEMA = "orch.replay/1"
"""Name and version of the JSON format. Fields are added, never renamed or given another meaning."""
MARKS = {"equal": "✓", "completed": "✓", "diverged": "✗", "broken": "✗", "unreadable": "✗", "interrupted": "⏸"}
NEAR = 2
ALSO = 20
"""Largest number of divergences listed after the first divergence, each on one line."""


def line(verdict: Verdict) -> str:
    """Return the verdict on one recording as one line of text."""
    if verdict.outcome == "unreadable":
        return f"✗ {verdict.error}"
    what = [f"{verdict.events} events", f"{verdict.commands} commands"]
    what += [f"{verdict.sessions} sessions"] if verdict.sessions != 1 else [verdict.state]
    said = {"equal": "", "completed": "  inputs alone, completed"}.get(verdict.outcome, f"  {verdict.outcome}")
    return f"{MARKS[verdict.outcome]} {verdict.source}  {'  '.join(what)}  {_time(verdict.elapsed_s)}{said}"


def _time(elapsed_s: float) -> str:
    return f"{elapsed_s * 1e3:.1f} ms" if elapsed_s < 1 else f"{elapsed_s:.1f} s"


def details(verdict: Verdict) -> Iterator[str]:
    """Yield the details of a verdict: the first divergence in full, other divergences in short, and the violated
    invariants.
    """
    for first in verdict.divergences[:1]:
        yield from divergence_lines(verdict.source, first)
    for other in verdict.divergences[1 : 1 + ALSO]:
        where = f"{one_line(other.session_id)} at version {other.version} (line {other.line})"
        yield f"  also         {where}: {_title(other)}"
    if (more := len(verdict.divergences) - 1 - ALSO) > 0:
        yield f"  … {more} more; --json has them all"
    if verdict.diverged_sessions > 1:
        yield f"  {verdict.diverged_sessions} of {verdict.sessions} sessions diverge"
    for part in verdict.parts:
        sign, by = "✓" if part.is_equal else "✗", part.recorded_by or "(unknown)"
        versions = f"versions {part.first_version}-{part.last_version}"
        yield f"  {sign} {one_line(part.session_id)}  {versions}, recorded by reducer {by}"
    for broken in verdict.broken:
        yield f"  {broken.invariant:12} {one_line(broken.session_id)} at version {broken.version}: {broken.message}"
    for command in verdict.next_commands:
        yield f"  next         {one_line(command)}"


def divergence_lines(source: str, found: Divergence) -> Iterator[str]:
    """Yield a divergence in full: place, state, recorded and replayed events, differing fields, commands to type next.

    `source`: the file of the recording, for the `orch replay` command to type next. Empty: there is no file, and this
    command is left out.
    """
    event = found.recorded_step[0]
    since_open = seconds(event.at_us - found.opened_at_us)
    where = f"version {found.version} (line {found.line})"
    yield f"✗ {one_line(found.session_id)} diverged at {where}, {name(event)}, {since_open}"
    yield f"  rule         {_title(found)}"
    state = found.state
    when = "before" if state.version < found.recorded_step[0].version else "after "
    yield f"  state {when} {state.phase}, turn {state.turn}, epoch {state.epoch}, version {state.version}"
    yield f"  reducer      recorded by {found.recorded_by or '(unknown)'}, replayed with {REDUCER_VERSION}"
    if found.error:
        yield f"  raised       {found.error}"
    yield f"  recorded     {_around(found.recorded_step, found.recorded)}"
    yield f"  replayed     {_around(found.replayed_step, found.replayed)}"
    for where, (recorded, replayed) in found.fields.items() if found.recorded and found.replayed else ():
        yield f"  differs      {where}: {value(recorded)} → {value(replayed)}"
    place = _pasted(f"{found.session_id}:{found.version}")
    again = f"orch replay {_pasted(source)} --until {place} --dump-state   |   " if source else ""
    yield f"  near         {_near(found)}"
    yield f"  next         {again}orch explain {found.rule.id}"


def _pasted(argument: str) -> str:
    """Quote an argument of a command that the reader pastes into a shell."""
    return quote(one_line(argument))


def _title(found: Divergence) -> str:
    return f"{found.rule.id} {found.rule.name}"


def _around(step: Sequence[Event], event: Event | None) -> str:
    """Format an event with its neighbours in the step. Events are numbered; the input is 0. ▶ marks the event."""
    if not step:
        return "(nothing)"
    place = next((i for i, one in enumerate(step) if one is event), len(step))
    shown = [
        f"{'▶' if one is event else ''}{index}. {short(one)}"
        for index, one in enumerate(step)
        if abs(index - place) <= 1 and (index or one is event)
    ]
    if event is None:
        shown.append(f"▶{place}. (nothing)")
    more = len(step) - place - NEAR
    return ("… " if place > NEAR else "") + "  ".join(shown) + (f"  … {more} more" if more > 0 else "")


def _near(found: Divergence) -> str:
    step = found.recorded_step
    shown = [f"{event.version} {name(event)}" for event in found.before[-NEAR:]]
    shown += [f"▶{step[0].version} {name(step[0])}"]
    shown += [f"{event.version} {name(event)}" for event in step[1 : 2 + NEAR]]
    return " · ".join(shown)


def total(verdicts: Sequence[Verdict]) -> str:
    """Return the summary line over many verdicts."""
    counts = {outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in MARKS}
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    events, commands = sum(v.events for v in verdicts), sum(v.commands for v in verdicts)
    return f"{len(verdicts)} recordings: {said}; {events} events, {commands} commands"


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Return the JSON report on one recording."""
    return {
        "broken": [
            {"invariant": b.invariant, "message": b.message, "session": b.session_id, "version": b.version}
            for b in verdict.broken
        ],
        "commands": verdict.commands,
        "divergences": [_divergence_json(found) for found in verdict.divergences],
        "error": verdict.error,
        "events": verdict.events,
        "exit_code": verdict.exit_code,
        "next_commands": verdict.next_commands,
        "outcome": verdict.outcome,
        "parts": [to_jsonable_python(part) for part in verdict.parts],
        "reducer": REDUCER_VERSION,
        "schema": SCHEMA,
        "sessions": verdict.sessions,
        "source": verdict.source,
        "state": verdict.state,
    }


def states_json(found: Replay) -> dict[str, Any]:
    """Return the final state of each session as JSON. If the last step of a session diverged, the state after the
    replayed step is added as `replayed`, unless there is no such state (`Divergence.after`).
    """
    after = {
        one.session_id: one.after
        for one in found.divergences
        if one.recorded_step[-1].version == found.sessions[one.session_id].state.version
    }
    states = {}
    for session_id, state in found.states.items():
        replayed = after.get(session_id)
        states[session_id] = state_fields(state) | ({"replayed": state_fields(replayed)} if replayed else {})
    return states


def _divergence_json(found: Divergence) -> dict[str, Any]:
    return {
        "diff": [{"path": path, "recorded": one, "replayed": other} for path, (one, other) in found.fields.items()],
        "error": found.error,
        "input": encode(found.recorded_step[0]).decode(),
        "line": found.line,
        "recorded": [_event_json(event) for event in found.recorded_step[1:]],
        "recorded_by": found.recorded_by,
        "replayed": [_event_json(event) for event in found.replayed_step[1:]],
        "rule": found.rule.id,
        "rule_name": found.rule.name,
        "session": found.session_id,
        "version": found.version,
    }


def _event_json(event: Event) -> dict[str, Any]:
    return {"payload": to_jsonable_python(payload(event)), "said": name(event), "version": event.version}
