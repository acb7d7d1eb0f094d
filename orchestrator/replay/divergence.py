"""The first difference between a recording and its replay: its kind (rule ORCH1001…), and the fields that differ."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from events.derived import CommandIssued, EventRejected, StateChanged
from events.envelope import Event, Input
from events.inputs import TimerFired
from orchestrator.replay.rules import RULES, Rule
from orchestrator.session.state import State


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first difference between a recorded step and its replay. `recorded` and `replayed`: the two events that
    differ; None: the recorded or the replayed step ends before this place.
    """

    rule: Rule
    line: int
    session_id: str
    recorded: Event | None
    replayed: Event | None
    recorded_step: tuple[Event, ...]
    replayed_step: tuple[Event, ...]
    """`recorded_step` and `replayed_step`: the input, then the events derived from the input. `replayed_step` is empty
    if today's reducer raised, or ignored the input as a duplicate.
    """
    before: tuple[Event, ...]
    """The previous step of the same session; empty if it is not known."""
    state: State
    """The state before the step. If the recorded step equals the replayed step, but has more events at its end: the
    state after the replayed step.
    """
    after: State | None
    """The state after the replayed step. None: today's reducer raised an exception or ignored the input as a duplicate,
    or `state` is this state already.
    """
    opened_at_us: int
    recorded_by: str
    """The reducer version that recorded this step."""
    error: str = ""
    """The exception that the reducer raised, with file and line; otherwise empty."""

    @property
    def version(self) -> int:
        """Version of the recorded event that differs or, if `recorded` is None, of the replayed event."""
        event = self.recorded or self.replayed
        return event.version if event else 0

    @property
    def fields(self) -> dict[str, tuple[object, object]]:
        """Dotted field name → (recorded value, replayed value), for the fields that differ."""
        recorded = self.recorded.model_dump() if self.recorded else {}
        replayed = self.replayed.model_dump() if self.replayed else {}
        return differences(recorded, replayed)


def differences(left: dict[str, object], right: dict[str, object], path: str = "") -> dict[str, tuple[object, object]]:
    """Dotted field name → (left value, right value), for the fields that differ."""
    found: dict[str, tuple[object, object]] = {}
    for name in sorted(left.keys() | right.keys()):
        one, other = left.get(name), right.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            found |= differences(one, other, f"{path}{name}.")
        elif one != other:
            found[path + name] = (one, other)
    return found


def first_difference(recorded: Sequence[Event], replayed: Sequence[Event]) -> tuple[Rule, int]:
    """Return the first difference between two steps: its rule (the kind of difference, such as ORCH1001) and its index
    in the step, where 0 is the input. The steps must differ. The rule ORCH1004 means that only a state hash differs.
    """
    one, other = [_bare(event) for event in recorded], [_bare(event) for event in replayed]
    place = next((i for i, (r, p) in enumerate(zip_longest(one, other)) if r != p), None)
    if place is None:
        return RULES["ORCH1004"], len(one) - 1
    if isinstance(recorded[0], TimerFired) and place and _is_stale(recorded) != _is_stale(replayed):
        return RULES["ORCH1008"], place
    return RULES[_rule(one[place:], other[place:])], place


def _bare(event: Event) -> Event:
    return event.replace(state_hash="") if event.state_hash else event


def _rule(recorded: Sequence[Event], replayed: Sequence[Event]) -> str:
    one, other = at(recorded, 0), at(replayed, 0)
    if one is not None and other is not None and _key(one) == _key(other):
        return _mismatch(one, other)
    surplus = Counter(map(_key, recorded))
    surplus.subtract(map(_key, replayed))
    is_missing, is_extra = one is not None and surplus[_key(one)] > 0, other is not None and surplus[_key(other)] < 0
    if is_missing and is_extra and isinstance(one, CommandIssued) and one.name == getattr(other, "name", ""):
        return "ORCH1001"
    if one is not None and is_missing:
        return _one_sided(one, "ORCH1002", "ORCH1011")
    if other is not None and is_extra:
        return _one_sided(other, "ORCH1003", "ORCH1012")
    return "ORCH1013"


def _mismatch(one: Event, other: Event) -> str:
    differing = set(differences(one.model_dump(), other.model_dump()))
    if isinstance(one, Input):
        return "ORCH1007" if differing & {"version", "at_us"} else "ORCH1010"
    if differing <= {"at_us", "event_id", "version"}:
        return "ORCH1007"
    if differing <= Event.model_fields.keys():
        return "ORCH1010"
    if isinstance(one, CommandIssued):
        return "ORCH1001"
    return "ORCH1005" if isinstance(one, StateChanged) else "ORCH1010"


def _one_sided(event: Event, of_a_command: str, of_an_event: str) -> str:
    if isinstance(event, StateChanged):
        return "ORCH1005"
    return of_a_command if isinstance(event, CommandIssued) else of_an_event


def _key(event: Event) -> tuple[str, ...]:
    """Return the identity of an event without its contents: a command's name and target, or another event's type."""
    if isinstance(event, CommandIssued):
        return event.name, event.target
    return (type(event).__name__,)


def _is_stale(step: Sequence[Event]) -> bool:
    return any(isinstance(event, EventRejected) for event in step)


def at(events: Sequence[Event], index: int) -> Event | None:
    """Return the event at this index; None: `events` ends before it."""
    return events[index] if index < len(events) else None
