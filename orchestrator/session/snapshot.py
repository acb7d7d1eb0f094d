"""Snapshots of a session's folded state at one version of its log, so that takeover need not read the whole log.

A snapshot is only a cache: if it differs from the log, the log is folded instead. A snapshot has no policy, because the
first event of the log has it.
"""

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from orchestrator.session import REDUCER_VERSION
from orchestrator.session.conversation import ConversationSoFar, Said
from orchestrator.session.journal import Journal
from orchestrator.session.policy import Policy
from orchestrator.session.state import STATE_SCHEMA, State


class BadSnapshotError(ValueError):
    """A snapshot cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    reducer_version: str
    state_schema: int
    """The state schema of the program that dumped the snapshot. The snapshot lacks fields of later schemas."""
    state: State
    said: tuple[Said, ...]
    turn_began: int


_SNAPSHOT = TypeAdapter(_Snapshot)


def dump(state: State, conversation: ConversationSoFar) -> bytes:
    """Dump a session's snapshot as JSON."""
    snapshot = _Snapshot(REDUCER_VERSION, STATE_SCHEMA, state, conversation.said, conversation.turn_began)
    return _SNAPSHOT.dump_json(snapshot, exclude={"state": {"policy"}})


def load(data: bytes, policy: Policy) -> tuple[State, ConversationSoFar]:
    """Load a snapshot and add the session's policy. Raises BadSnapshotError if the data is no snapshot, or if its
    reducer version or state schema is not today's.
    """
    try:
        snapshot = _SNAPSHOT.validate_json(data)
    except ValidationError as error:
        raise BadSnapshotError(f"not a snapshot: {error.errors()[0]['msg']}") from error
    if snapshot.reducer_version != REDUCER_VERSION:
        raise BadSnapshotError(f"made by reducer {snapshot.reducer_version}, this one is {REDUCER_VERSION}")
    if snapshot.state_schema != STATE_SCHEMA:
        raise BadSnapshotError(f"made under state schema {snapshot.state_schema}, this one is {STATE_SCHEMA}")
    snapshot.state.policy = policy
    return snapshot.state, ConversationSoFar(snapshot.said, snapshot.turn_began)


def journal(state: State, conversation: ConversationSoFar) -> Journal:
    """Rebuild the journal of a session from a loaded snapshot: the id of the outstanding question, and the tool calls
    that were running when this question was asked.

    The journal lacks the agent's work on this question. The calling code must read this work from the log, from version
    `state.found.facts_from` on (0: the agent has done no work on the question).
    """
    asked = state.outstanding("AnswerQuestion")
    since = min(asked[0].version, conversation.turn_began) if asked else state.version
    calls = [said.call for said in conversation.said if said.call is not None]
    was_open = [call for call in calls if call.outcome == "open" or call.ended > since]
    return Journal(asked[0].idempotency_key if asked else "", was_open)
