"""A snapshot: what a log folds to up to one of its versions, so that a long call is taken over without reading it all.

It is a cache and nothing more: whoever reads it holds it against the log, and folds the log where they differ. The
policy, which never changes and may be long, is left out: the first event of the log has it.
"""

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from orchestrator.session import REDUCER_VERSION
from orchestrator.session.conversation import ConversationSoFar, Said
from orchestrator.session.policy import Policy
from orchestrator.session.state import State


class BadSnapshotError(ValueError):
    """A snapshot cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    reducer_version: str
    state: State
    said: tuple[Said, ...]
    turn_began: int


_SNAPSHOT = TypeAdapter(_Snapshot)


def dump(state: State, conversation: ConversationSoFar) -> bytes:
    """A snapshot of a session, as JSON."""
    snapshot = _Snapshot(REDUCER_VERSION, state, conversation.said, conversation.turn_began)
    return _SNAPSHOT.dump_json(snapshot, exclude={"state": {"policy"}})


def load(data: bytes, policy: Policy) -> tuple[State, ConversationSoFar]:
    """What was dumped, under the session's policy. Raises BadSnapshotError, also for one of other rules than today's:
    its state may not have the fields that today's has.
    """
    try:
        snapshot = _SNAPSHOT.validate_json(data)
    except ValidationError as error:
        raise BadSnapshotError(f"not a snapshot: {error.errors()[0]['msg']}") from error
    if snapshot.reducer_version != REDUCER_VERSION:
        raise BadSnapshotError(f"made by reducer {snapshot.reducer_version}, this one is {REDUCER_VERSION}")
    snapshot.state.policy = policy
    return snapshot.state, ConversationSoFar(snapshot.said, snapshot.turn_began)
