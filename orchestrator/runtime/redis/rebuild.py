"""Rebuilds a session from Redis: from its last snapshot and the log after that snapshot, or from the whole log."""

import logging
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis

from events.inputs import SessionOpened
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import UnknownSessionError, read_log
from orchestrator.session import snapshot
from orchestrator.session.conversation import ConversationSoFar
from orchestrator.session.evolve import fold
from orchestrator.session.journal import Journal
from orchestrator.session.policy import Policy
from orchestrator.session.snapshot import BadSnapshotError
from orchestrator.session.state import State

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A session that was rebuilt from Redis: all that its new owner needs to continue the conversation."""

    state: State
    conversation: ConversationSoFar
    journal: Journal
    """The agent's work on its last question. The new owner uses it if that question is asked again."""


async def rebuild(redis: Redis, keys: Keys, session_id: str) -> Rebuilt:
    """Rebuild a session from its snapshot and the log after the snapshot; from the whole log if no snapshot is usable.

    Raises UnknownSessionError if Redis has no log of the session, BadEventError if an event cannot be read, RedisError.
    """
    if found := await redis.hget(keys.state(session_id), "snapshot"):
        try:
            return await _from_snapshot(redis, keys, session_id, cast("bytes", found))
        except (BadSnapshotError, UnknownSessionError) as error:  # or the log ends before the snapshot
            logger.info("%s is rebuilt from its whole log: its snapshot is of no use: %s", session_id, error)
    log = await read_log(redis, keys, session_id)
    conversation = ConversationSoFar()
    conversation.hear(log)
    journal = Journal()
    journal.hear(log)
    return Rebuilt(fold(log), conversation, journal)


async def committed_us(redis: Redis, keys: Keys, session_id: str) -> int:
    """Return the time of the session's last commit, in microseconds on the clock of Redis. 0: unknown, since an older
    release did not store it.
    """
    return int(await redis.hget(keys.state(session_id), "committed_us") or 0)


async def _from_snapshot(redis: Redis, keys: Keys, session_id: str, found: bytes) -> Rebuilt:
    """Load the snapshot and apply the log after it. Raises BadSnapshotError if the snapshot cannot be read, or if the
    log has another state hash at the snapshot's version; UnknownSessionError if the log ends before that version.
    """
    first = await read_log(redis, keys, session_id, most=1)
    opened = first[0]
    policy = Policy.read(opened.policy) if isinstance(opened, SessionOpened) else None
    if policy is None:
        raise BadSnapshotError("there is no policy: the log does not begin with SESSION_OPENED")
    state, conversation = snapshot.load(found, policy)
    since = await read_log(redis, keys, session_id, first=state.version)
    at_snapshot = [event for event in since if event.version <= state.version]
    if not at_snapshot or at_snapshot[-1].state_hash != state.hash():
        raise BadSnapshotError(f"it is not what the log says at version {state.version}")
    rest = since[len(at_snapshot) :]
    journal = snapshot.journal(state, conversation)
    if facts_from := state.found.facts_from:
        journal.hear(await read_log(redis, keys, session_id, first=facts_from))
    else:
        journal.hear(rest)
    conversation.hear(rest)
    return Rebuilt(fold(rest, state), conversation, journal)
