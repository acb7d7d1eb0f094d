"""Folds logs that may have been edited, and recomputes their state hashes."""

from collections.abc import Iterable, Iterator

from events.envelope import Event
from events.inputs import SessionOpened
from orchestrator.replay.replay import REDUCER_ERRORS
from orchestrator.session.evolve import apply
from orchestrator.session.policy import Policy
from orchestrator.session.state import STATE_SCHEMA, State, why_unreadable


class UnsoundLogError(ValueError):
    """An event does not follow from the events before it; the message says which."""


def fold_on(state: State, event: Event) -> None:
    """Fold one event into `state`, in place. Raises UnsoundLogError."""
    if isinstance(event, SessionOpened) and (unreadable := why_unreadable(event)):
        raise UnsoundLogError(f"{event.session_id} version {event.version}: {unreadable}; read it with that version")
    try:
        apply(state, event)
    except REDUCER_ERRORS as error:
        where = f"{event.session_id} version {event.version}"
        raise UnsoundLogError(
            f"{where} does not follow from what is before it; `orch verify` names every place"
        ) from error


def rehashed(events: Iterable[Event]) -> Iterator[Event]:
    """The same log with recomputed state hashes. Raises UnsoundLogError."""
    states: dict[str, State] = {}
    for event in events:
        state = states.setdefault(event.session_id, State())
        fold_on(state, event)
        yield event.but(state_hash=state.hash()) if event.state_hash else event


def upgraded(events: Iterable[Event]) -> Iterator[Event]:
    """Convert a log of any released format to today's: state schema, complete policy, new hashes.

    Raises UnsoundLogError.
    """
    return rehashed(_opened_today(event) if isinstance(event, SessionOpened) else event for event in events)


def _opened_today(event: SessionOpened) -> SessionOpened:
    policy = Policy.read(event.policy)
    if policy is None or why_unreadable(event):
        return event
    return event.but(policy=policy.recorded(), state_schema=STATE_SCHEMA)
