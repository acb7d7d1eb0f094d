"""Folds logs that may have been edited, and recomputes their state hashes."""

from collections.abc import Iterable, Iterator

from events.envelope import Event
from events.inputs import SessionOpened
from orchestrator.replay.replay import REDUCER_ERRORS
from orchestrator.session.evolve import apply
from orchestrator.session.policy import Policy
from orchestrator.session.state import STATE_SCHEMA, State, why_unreadable


class UnsoundLogError(ValueError):
    """An event does not follow from the events before it, or a newer orch wrote the log. The message says where."""


def fold_on(state: State, event: Event) -> None:
    """Fold one event into `state`, in place. Raises UnsoundLogError if the event does not fit the state."""
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
    """Yield the events of a log with recomputed state hashes. Raises UnsoundLogError, as `fold_on` does."""
    states: dict[str, State] = {}
    for event in events:
        state = states.setdefault(event.session_id, State())
        fold_on(state, event)
        yield event.replace(state_hash=state.hash()) if event.state_hash else event


def upgraded(events: Iterable[Event]) -> Iterator[Event]:
    """Convert a log of any released format to today's format: complete policy, state schema, recomputed state hashes.
    For an old session, the reducer still decides as when the session was opened (`RULES_SINCE`).

    Raises UnsoundLogError, as `fold_on` does.
    """
    return rehashed(_opened_today(event) if isinstance(event, SessionOpened) else event for event in events)


RULES_SINCE = 7
"""The first state schema that came with changed decisions. For a session of an earlier schema, the reducer decides as
before the change (`State.has_rules_of`).
"""


def _opened_today(event: SessionOpened) -> SessionOpened:
    """Return SESSION_OPENED with the complete policy and today's state schema. If its schema is lower than RULES_SINCE,
    it gets the schema just below RULES_SINCE: the reducer then decides as when the session was opened. An unreadable
    event is returned unchanged.
    """
    policy = Policy.read(event.policy)
    if policy is None or why_unreadable(event):
        return event
    schema = STATE_SCHEMA if event.state_schema >= RULES_SINCE else RULES_SINCE - 1
    return event.replace(policy=policy.recorded(), state_schema=schema)
