"""Rebuilding a session from what Redis has of it: its last snapshot and the log since then, or the log alone."""

import logging
from typing import cast

from redis.asyncio import Redis

from events.inputs import SessionOpened
from orchestrator.runtime.keys import Keys
from orchestrator.runtime.logs import UnknownSessionError, read_log
from orchestrator.session import snapshot
from orchestrator.session.conversation import ConversationSoFar
from orchestrator.session.evolve import fold
from orchestrator.session.policy import Policy
from orchestrator.session.snapshot import BadSnapshotError
from orchestrator.session.state import State

logger = logging.getLogger(__name__)


async def rebuild(redis: Redis, keys: Keys, session_id: str) -> tuple[State, ConversationSoFar]:
    """The session as its log has it. Raises UnknownSessionError, BadEventError, RedisError."""
    if found := await redis.hget(keys.state(session_id), "snapshot"):
        try:
            return await _from_snapshot(redis, keys, session_id, cast("bytes", found))
        except (BadSnapshotError, UnknownSessionError) as error:  # the latter: it is ahead of the log
            logger.info("%s is rebuilt from its whole log: its snapshot is of no use: %s", session_id, error)
    log = await read_log(redis, keys, session_id)
    conversation = ConversationSoFar()
    conversation.hear(log)
    return fold(log), conversation


async def _from_snapshot(redis: Redis, keys: Keys, session_id: str, found: bytes) -> tuple[State, ConversationSoFar]:
    """Raises BadSnapshotError where it is none, or is not what the log says at its version."""
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
    conversation.hear(rest)
    return fold(rest, state), conversation
