"""`orch why`: the chain of causes of an event back to the first input, each proved by replaying without it.

Proof: without the cause the reducer decides differently; without a neighbouring input it decides the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from events.derived import CommandIssued
from events.envelope import Derived, Event, Input
from orchestrator.replay.change import Change
from orchestrator.replay.fold_on import UnsoundLogError, fold_on
from orchestrator.replay.place import NoSuchEventError
from orchestrator.replay.replay import REDUCER_ERRORS
from orchestrator.replay.what_if import what_if
from orchestrator.replay.words import name, payload, short, value
from orchestrator.session.policy import Policy
from orchestrator.session.reducer import reduce
from orchestrator.session.state import State

NEIGHBOURS = 6
"""Number of inputs before the decision that are left out in turn."""
SCHEMA = "orch.why/1"
"""Additive only: fields are added, never renamed or given another meaning."""
SHIFTING = {"command_id", "conversation_to"}
"""Fields that change with any earlier input and are not compared."""


@dataclass(frozen=True, slots=True)
class Cause:
    """A link of the chain of causes. `is_needed`: whether the decision changes without this input; None for a derived
    event.
    """

    event: Event
    is_needed: bool | None


@dataclass(frozen=True, slots=True)
class Condition:
    """A value on which the decision depends: `what` was `was`; had it been `with_`, the decision would be `then`."""

    what: str
    was: str
    with_: str
    then: str


@dataclass(frozen=True, slots=True)
class Why:
    """Explanation of one event."""

    event: Event
    chain: tuple[Cause, ...]
    """The causes of an event, from the event back to the first input."""
    also: tuple[Event, ...]
    """Further inputs shortly before the decision that it needs, such as the intent beside the answer."""
    beside: Event | None
    """The last input before the decision that the decision does not need."""
    conditions: tuple[Condition, ...]
    phase: str


def as_json(found: Why) -> dict[str, Any]:
    """JSON report on an event."""
    return {
        "also": [_event_json(event) for event in found.also],
        "beside": _event_json(found.beside) if found.beside else None,
        "chain": [_event_json(cause.event) | {"is_needed": cause.is_needed} for cause in found.chain],
        "conditions": [
            {"then": one.then, "was": one.was, "what": one.what, "with": one.with_} for one in found.conditions
        ],
        "event": _event_json(found.event),
        "phase": found.phase,
        "schema": SCHEMA,
    }


def _event_json(event: Event) -> dict[str, Any]:
    return {"at_us": event.at_us, "said": short(event, 0), "type": name(event), "version": event.version}


def why(log: Sequence[Event], version: int) -> Why:
    """Explain an event of one session's log. Raises NoSuchEventError, UnsoundLogError."""
    event = next((one for one in log if one.version == version), None)
    if event is None:
        raise NoSuchEventError(f"version {version} is not in this log; it ends at {log[-1].version}")
    chain = [*_chain(log, event)]
    causes = tuple(Cause(one, _is_needed(log, event, one) if isinstance(one, Input) else None) for one in chain)
    step = chain[1] if isinstance(event, Derived) and len(chain) > 1 else event
    if not isinstance(step, Input):
        raise UnsoundLogError(f"version {version} has no input as its cause; `orch verify` names every place")
    others = [one for one in log if isinstance(one, Input) and 1 < one.version < step.version and one not in chain]
    nearest = [(one, _is_needed(log, event, one)) for one in others[-NEIGHBOURS:]]
    before = State()
    for one in log:
        if one.version < step.version:
            fold_on(before, one)
    return Why(
        event=event,
        chain=causes,
        also=tuple(one for one, is_needed in nearest if is_needed),
        beside=next((one for one, is_needed in reversed(nearest) if not is_needed), None),
        conditions=tuple(_conditions(before, step, event)),
        phase=before.phase,
    )


def _chain(log: Sequence[Event], event: Event) -> Iterator[Event]:
    """Follow `cause`: the event, its input, the command that the input answers, that command's input, and so on."""
    by_id = {one.event_id: one for one in log}
    at: Event | None = event
    while at is not None:
        yield at
        at = by_id.get(at.cause) if at.cause else None


def _is_needed(log: Sequence[Event], event: Event, cause: Input) -> bool:
    """Whether the event is missing or different in a replay without the input `cause`."""
    if cause.version == 1:
        return True  # SESSION_OPENED: without it there is no session
    new = what_if(log, Change(without=frozenset({cause.event_id}))).events
    return _essence(event) not in [_essence(one) for one in new]


def _essence(event: Event) -> tuple[Any, ...]:
    said = {field: content for field, content in payload(event).items() if field not in SHIFTING}
    return (
        name(event),
        getattr(event, "target", ""),
        event.cause if isinstance(event, Derived) else event.event_id,
        said,
    )


def _conditions(before: State, step: Input, event: Event) -> Iterator[Condition]:
    """Change each policy field and state fact in turn; yield those that change this decision."""
    made, named = _decide(before, step), set[str]()
    for what, was, with_, state in (*_other_policies(before), *_other_facts(before)):
        otherwise = _decide(state, step)
        if otherwise is None or made is None or what in named:
            continue
        same = _said(otherwise) == _said(made) if isinstance(event, Input) else _is_said(event, otherwise)
        if not same:
            named.add(what)
            yield Condition(what, was, with_, ", ".join(short(one, 30) for one in otherwise[1:]) or "nothing")


def _decide(state: State, step: Input) -> tuple[Event, ...] | None:
    try:
        return reduce(state, step.but(producer_seq=0, event_id=f"{step.event_id}'")).events
    except REDUCER_ERRORS:
        return None  # the changed state is impossible


def _said(events: Sequence[Event]) -> list[tuple[Any, ...]]:
    return [_plain(event) for event in events[1:]]


def _is_said(event: Event, events: Sequence[Event]) -> bool:
    return _plain(event) in _said(events)


def _plain(event: Event) -> tuple[Any, ...]:
    named, target, _, said = _essence(event)
    return named, target, said


def _other_policies(before: State) -> Iterator[tuple[str, str, str, State]]:
    recorded = before.policy.recorded()
    for part, fields in recorded.items():
        for field, was in fields.items():
            for other in _others(was):
                policy = Policy.read(recorded | {part: fields | {field: other}})
                if policy is not None:
                    state = before.copy()
                    state.policy = policy
                    yield f"{part}.{field}", value(was), value(other), state


def _others(was: Any) -> list[Any]:
    """Other values to try for a policy field: the opposite, zero, one, ten times more, empty."""
    if isinstance(was, bool):
        return [not was]
    if isinstance(was, int):
        return [other for other in (0, 1, was * 10 + 10) if other != was]
    if isinstance(was, list):
        return [[]] if was else []
    return {"merge": ["supersede"], "supersede": ["merge"]}.get(was, ["", "something"])


def _other_facts(before: State) -> Iterator[tuple[str, str, str, State]]:
    flags = ("user_is_speaking", "partial_is_complete")
    texts = ("partial_text", "held_text", "handler_id", "client_id")
    facts: list[tuple[str, Any, Any]] = [(fact, getattr(before, fact), not getattr(before, fact)) for fact in flags]
    facts += [(fact, getattr(before, fact), "") for fact in texts if getattr(before, fact)]
    for fact, was, other in facts:
        state = before.copy()
        setattr(state, fact, other)
        yield fact, value(was), value(other), state
    for command in before.pending.values():
        state = before.copy()
        del state.pending[command.command_id]
        yield _named(command), "outstanding", "not outstanding", state


def _named(command: CommandIssued) -> str:
    return f"{command.name} {command.target}"
