"""The edges of the phase diagram that a log takes: from where, on what, to where."""

from collections.abc import Iterable
from typing import NamedTuple

from events.derived import Phase, StateChanged
from events.envelope import Event, Input
from events.inputs import TimerFired


class Edge(NamedTuple):
    """One arrow of the phase diagram. The trigger is the input's type, or the name of the timer that fired."""

    from_phase: Phase
    trigger: str
    to_phase: Phase


def edges_taken(events: Iterable[Event]) -> set[Edge]:
    """The edges of a log, or of a recording of several sessions: an input stands before what was said about it."""
    taken: set[Edge] = set()
    trigger = ""
    for event in events:
        if isinstance(event, Input):
            trigger = _trigger(event)
        elif isinstance(event, StateChanged):
            taken.add(Edge(event.from_phase, trigger, event.to_phase))
    return taken


def _trigger(event: Input) -> str:
    if isinstance(event, TimerFired):
        return event.target
    name: str = event.type  # type: ignore[attr-defined] # every concrete input has one
    return name
