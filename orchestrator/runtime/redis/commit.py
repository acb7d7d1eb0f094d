"""Commits steps with lua/commit.lua, in batches, each step exactly once, also when the outcome of a batch is unknown.

The outcome is clear if the reply to every step is OK, or if one reply is NOT_OWNER. Otherwise (a lost reply, an error,
or CURSOR: the stream's cursor is not where the step expects it) the fencing token and the cursor are read back from
Redis. Steps up to the cursor in Redis are committed; the later steps are sent again.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.runtime.redis.cluster import ClusterWire
from orchestrator.runtime.redis.connection import ask, evalsha, load_scripts, pause_s, run_id
from orchestrator.runtime.redis.wire import Wire

logger = logging.getLogger(__name__)


class LostOwnershipError(Exception):
    """Another node is the owner now, or Redis was restarted or lost writes. This owner must stop all its work."""


@dataclass(frozen=True, slots=True)
class Move:
    """One call of a Lua script. It moves the cursor of a stream from `cursor` to `next_cursor`, and fails if the cursor
    is not at `cursor`. So after the failure of one move, all later moves of the batch fail, too.
    """

    script: str
    keys: list[str]
    cursor: str
    next_cursor: str
    args: tuple[Any, ...] = ()
    stored: tuple[str, int] | None = None
    """Only for a step that leaves the cursor where it is: (key of the session's state, version of the session after the
    step). The cursor does not show whether such a step is committed; the version in Redis does.
    """


class Committer:
    """Commits the steps of one shard, or the moves of one ingress, under one fencing token, until ownership is lost."""

    def __init__(self, redis: Redis, wire: Wire | ClusterWire, owned_key: str, token: str, server: str) -> None:
        self._redis = redis
        self._wire = wire
        self._owned_key = owned_key
        self._token = token
        self.server = server
        """The run id of the Redis server when the lease was acquired."""

    async def commit(self, moves: Sequence[Move]) -> None:
        """Commit all moves, in order and each exactly once; retries until all are committed. Raises LostOwnershipError
        if another node is the owner now, or if Redis was restarted or has lost writes.
        """
        rest, failures = list(moves), 0
        while rest:
            sent = len(rest)
            outcome = await self._send(rest)
            if all(reply == b"OK" for reply in outcome):
                return
            if b"NOT_OWNER" in outcome:
                raise LostOwnershipError("another owner has taken it")
            logger.warning("commit outcome unclear (%s), reading back", _summary(outcome))
            cursor, rest = await self._read_back(rest)
            if rest and rest[0].cursor != cursor:
                raise LostOwnershipError(f"the cursor is at {cursor}, not at {rest[0].cursor}: Redis lost writes")
            if b"VERSION" in outcome:
                raise LostOwnershipError("a session's log is not at the version we know")
            failures = failures + 1 if len(rest) == sent else 0
            await asyncio.sleep(pause_s(failures) if failures else 0)

    async def _send(self, moves: Sequence[Move]) -> list[Any]:
        calls = [
            evalsha(move.script, move.keys, [self._token, move.cursor, move.next_cursor, *move.args]) for move in moves
        ]
        try:
            return await self._wire.call(self._owned_key, calls)
        except (RedisError, OSError) as error:
            return [error]

    async def _read_back(self, moves: Sequence[Move]) -> tuple[str, list[Move]]:
        """Read from Redis which moves are committed. Returns the cursor, and the moves that are not committed. Retries
        until Redis answers.

        Raises LostOwnershipError if Redis was restarted or has another owner's token.
        """
        failures, stored = 0, [move.stored for move in moves if move.stored]
        while True:
            try:
                server = await run_id(self._redis, self._owned_key)
                reads = [("HGET", key, "version") for key, _ in stored]
                replies = await ask(self._redis, [("HMGET", self._owned_key, "owner", "cursor"), *reads])
                (owner, found), *versions = replies
                await load_scripts(self._redis)  # a restarted Redis has no scripts
            except (RedisError, OSError) as error:
                if not failures:
                    logger.warning("Redis does not answer (%s), looking until it does", error)
                await asyncio.sleep(pause_s(failures))
                failures += 1
                continue
            if server != self.server:
                raise LostOwnershipError("Redis was restarted")
            if owner is None or owner.decode() != self._token:
                raise LostOwnershipError("another owner has taken it")
            cursor = str((found or b"0-0").decode())
            done = [one for one, version in zip(stored, versions, strict=True) if int(version or 0) >= one[1]]
            return cursor, [move for move in moves if not _is_committed(move, cursor, done)]


def _is_committed(move: Move, cursor: str, done: Sequence[tuple[str, int]]) -> bool:
    """Whether a move is committed: the cursor in Redis has reached the move's `next_cursor`.

    A step that opens a promised session does not move the cursor; its `stored` names its session and version. While the
    cursor in Redis is at such a step, the step is committed if `done` has its `stored`: Redis has that version.
    """
    if move.stored and move.next_cursor == cursor:
        return move.stored in done
    return position(move.next_cursor) <= position(cursor)


def position(stream_id: str) -> tuple[int, int]:
    """Convert a stream id to a pair of numbers, for comparisons."""
    milliseconds, _, sequence = stream_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _summary(outcome: Sequence[Any]) -> str:
    kinds = {reply.decode() if isinstance(reply, bytes) else type(reply).__name__ for reply in outcome}
    return ", ".join(sorted(kinds))
