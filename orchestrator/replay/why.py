"""`orch why`: finds the causes of an event, back to the first input, and proves each cause by a replay without it.

Proof: in a replay without the cause, the event is missing or different. In a replay without a neighbouring input, the
event is the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from events import inputs
from events.derived import CommandIssued
from events.envelope import Derived, Event, Input, PlaybackResult, Result
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
"""How many of the last inputs before a decision `orch why` tests, besides the causes. A test is a replay without the
input.
"""
SCHEMA = "orch.why/1"
"""Name and version of the JSON format. Fields are added, never renamed or given another meaning."""
SHIFTING = {"command_id", "conversation_to", "elapsed_us", "retry_of", "saved_us"}
"""Fields that are not compared, because they change with any earlier input, or measure a time."""
NEAR_US = 60_000
"""Tolerance for the time of a decision, in microseconds. Recorded timers fire some milliseconds late."""


@dataclass(frozen=True, slots=True)
class Cause:
    """An event in the chain of causes of the explained event. `is_needed`: whether the explained event is missing or
    different in a replay without this cause. None: not tested, because the cause is no input, or because even a replay
    of the whole log does not produce the explained event.
    """

    event: Event
    is_needed: bool | None


@dataclass(frozen=True, slots=True)
class Condition:
    """A value on which the decision depends. `what`: its name. `was`: the real value. `with_`: another value that was
    tried. `then`: the decision with this other value.
    """

    what: str
    was: str
    with_: str
    then: str


@dataclass(frozen=True, slots=True)
class Why:
    """Explanation of one event."""

    event: Event
    chain: tuple[Cause, ...]
    """The event and its causes, from the event back to the first input."""
    also: tuple[Event, ...]
    """Other inputs that the decision needs. Example: the answer is in `chain`, and the intent in `also`."""
    beside: Event | None
    """The last of the tested inputs (`NEIGHBOURS`) that the event does not need: a replay without the input produces
    the event too. None: there is no such input.
    """
    conditions: tuple[Condition, ...]
    phase: str
    """The phase before the decision."""
    is_decided: bool
    """Whether a replay with today's reducer produces the event. If not, `also`, `beside` and `conditions` are empty."""


def as_json(found: Why) -> dict[str, Any]:
    """Return the JSON report on an event."""
    return {
        "also": [_event_json(event) for event in found.also],
        "beside": _event_json(found.beside) if found.beside else None,
        "chain": [_event_json(cause.event) | {"is_needed": cause.is_needed} for cause in found.chain],
        "conditions": [
            {"then": one.then, "was": one.was, "what": one.what, "with": one.with_} for one in found.conditions
        ],
        "event": _event_json(found.event),
        "is_decided": found.is_decided,
        "phase": found.phase,
        "schema": SCHEMA,
    }


def _event_json(event: Event) -> dict[str, Any]:
    return {"at_us": event.at_us, "said": short(event, 0), "type": name(event), "version": event.version}


def why(log: Sequence[Event], version: int) -> Why:
    """Explain one event of a session's log. Raises NoSuchEventError if the log has no such version. Raises
    UnsoundLogError if the event has no input as its cause, or if the log is damaged or of a newer orch.
    """
    event = next((one for one in log if one.version == version), None)
    if event is None:
        raise NoSuchEventError(f"version {version} is not in this log; it ends at {log[-1].version}")
    chain, old = [*_chain(log, event)], _Run(log)
    is_decided = old.is_repeated(event, _Run(what_if(log, Change()).events))
    causes = tuple(
        Cause(one, _is_needed(old, event, one) if is_decided and isinstance(one, Input) else None) for one in chain
    )
    step = chain[1] if isinstance(event, Derived) and len(chain) > 1 else event
    if not isinstance(step, Input):
        raise UnsoundLogError(f"version {version} has no input as its cause; `orch verify` names every place")
    others = [one for one in log if isinstance(one, Input) and 1 < one.version < step.version and one not in chain]
    nearest = [(one, _is_needed(old, event, one)) for one in others[-NEIGHBOURS:] if is_decided]
    before = State()
    for one in log:
        if one.version < step.version:
            fold_on(before, one)
    return Why(
        event=event,
        chain=causes,
        also=tuple(one for one, is_needed in nearest if is_needed),
        beside=next((one for one, is_needed in reversed(nearest) if not is_needed), None),
        conditions=tuple(_conditions(before, step, event)) if is_decided else (),
        phase=before.phase,
        is_decided=is_decided,
    )


def _chain(log: Sequence[Event], event: Event) -> Iterator[Event]:
    """Yield an event and its causes: the input of its step, the command that this input answers, the input of the
    command's step, and so on.
    """
    by_id = {one.event_id: one for one in log}
    at: Event | None = event
    while at is not None:
        yield at
        at = by_id.get(at.cause) if at.cause else None


def _is_needed(old: "_Run", event: Event, cause: Input) -> bool:
    """Whether the event is missing or different in a replay without the input `cause`."""
    if cause.version == 1:
        return True  # SESSION_OPENED: without it there is no session
    return not old.is_repeated(event, _Run(what_if(old.events, Change(without=frozenset({cause.event_id}))).events))


class _Run:
    """The events of the recording or of a what-if, in a form that can be compared with another run."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self._inputs = {one.event_id: one for one in events if isinstance(one, Input)}
        self._texts = {one.command_id: one.payload.get("text") for one in events if isinstance(one, CommandIssued)}

    def is_repeated(self, event: Event, new: "_Run") -> bool:
        """Whether the run `new` has `event` too, with the same content, cause and time (`NEAR_US`). If the event does
        not follow from a timer, its time may differ, provided that `new` has at least as many such events as this run.
        """
        named, essence = name(event), self._essence(event)
        was_us, is_us = self._times_us(named, essence), new._times_us(named, essence)
        is_timed = isinstance(self._inputs.get(event.cause, event), inputs.TimerFired)
        return any(abs(at_us - event.at_us) <= NEAR_US for at_us in is_us) or (
            not is_timed and len(is_us) >= len(was_us)
        )

    def _times_us(self, named: str, essence: tuple[Any, ...]) -> list[int]:
        return [one.at_us for one in self.events if name(one) == named and self._essence(one) == essence]

    def _essence(self, event: Event) -> tuple[Any, ...]:
        if isinstance(event, Input):
            return self._identity(event)
        cause = self._inputs.get(event.cause)
        return *_plain(event), cause and self._identity(cause)

    def _identity(self, event: Input) -> tuple[Any, ...]:
        """Return the key by which an input is found in another run: for a result its content, for any other input its
        event id.
        """
        # a simulated result has another event id in another run
        match event:
            case inputs.TtsChunkReady():
                place = event.index
            case inputs.PlaybackProgress():
                place = event.position_ms
            case PlaybackResult():
                place = 0
            case Result():
                return _plain(event)
            case _:
                return (event.event_id,)
        return name(event), _kind(event.playback_id), place, self._texts.get(event.command_id)


def _conditions(before: State, step: Input, event: Event) -> Iterator[Condition]:
    """Yield the values in the state `before` on which the explained event depends. `step`: the input from which the
    reducer derived the event.

    Changes one value at a time (a policy field, a flag or a text) or removes one outstanding command. Then lets the
    reducer decide again about `step`. Yields the value if the reducer no longer derives `event`. If `event` is the
    input itself, yields the value if the reducer derives other events. Yields nothing if the reducer does not derive
    `event` from the unchanged state.
    """
    made, named = _decide(before, step), set[str]()
    if made is None or not (isinstance(event, Input) or _is_said(event, made)):
        return
    for what, was, with_, state in (*_other_policies(before), *_other_facts(before)):
        otherwise = _decide(state, step)
        if otherwise is None or what in named:
            continue
        same = _said(otherwise) == _said(made) if isinstance(event, Input) else _is_said(event, otherwise)
        if not same:
            named.add(what)
            yield Condition(what, was, with_, ", ".join(short(one, 30) for one in otherwise[1:]) or "nothing")


def _decide(state: State, step: Input) -> tuple[Event, ...] | None:
    try:
        return reduce(state, step.replace(producer_seq=0, event_id=f"{step.event_id}'")).events
    except REDUCER_ERRORS:
        return None  # the changed state is impossible


def _said(events: Sequence[Event]) -> list[tuple[Any, ...]]:
    return [_plain(event) for event in events[1:]]


def _is_said(event: Event, events: Sequence[Event]) -> bool:
    return _plain(event) in _said(events)


def _plain(event: Event) -> tuple[Any, ...]:
    """Return the type and content of an event, for a comparison of two runs. Leaves out SHIFTING fields. The due time
    of a timer counts from the event. A playback id becomes the kind of playback.
    """
    said = {field: content for field, content in payload(event).items() if field not in SHIFTING}
    if "due_at_us" in said:
        said["due_at_us"] -= event.at_us
    if "playback_id" in said:
        said["playback_id"] = _kind(said["playback_id"])
    return name(event), said


def _kind(playback_id: str) -> str:
    """Return the kind of a playback: its id without the number at the end, such as "answer" for "answer-3". The same
    playback may have another number in another run.
    """
    return playback_id.rstrip("-0123456789")


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
    """Return other values to try for a policy field: the opposite, zero, one, ten times more, empty."""
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
