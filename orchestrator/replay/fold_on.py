"""Folding a log that somebody may have edited."""

from events.envelope import Event
from orchestrator.replay.replay import REDUCER_ERRORS
from orchestrator.session.evolve import apply
from orchestrator.session.state import State


class UnsoundLogError(ValueError):
    """An event does not follow from those before it; the message says which."""


def fold_on(state: State, event: Event) -> None:
    """Fold one more event into a state that nobody else holds. Raises UnsoundLogError."""
    try:
        apply(state, event)
    except REDUCER_ERRORS as error:
        where = f"{event.session_id} version {event.version}"
        raise UnsoundLogError(
            f"{where} does not follow from what is before it; `orch verify` names every place"
        ) from error
