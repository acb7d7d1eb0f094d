"""Commits steps by a Lua script, in batches, each exactly once, also when the outcome of a call is unknown.

Every outcome except all-OK or NOT_OWNER is ambiguous: a lost reply, a refused cursor, an error. The steps are kept, and
the fencing token and the cursor are read back. Steps up to the cursor are committed; the rest is sent again.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.runtime.redis.cluster import ClusterWire
from orchestrator.runtime.redis.connection import evalsha, load_scripts, pause_s, run_all, run_id
from orchestrator.runtime.redis.wire import Wire

logger = logging.getLogger(__name__)


class LostOwnershipError(Exception):
    """Another node is the owner now, or Redis was restarted or lost writes: this owner must stop all its work."""


@dataclass(frozen=True, slots=True)
class Move:
    """One call of a Lua script, which moves the cursor of a stream from one entry to the next. Each call expects the
    cursor where the call before has left it, so after a failure all later calls fail, too.
    """

    script: str
    keys: list[str]
    cursor: str
    next_cursor: str
    args: tuple[Any, ...] = ()


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
        """Send the moves until every one is committed, exactly once. Raises LostOwnershipError."""
        rest, failures = list(moves), 0
        while rest:
            outcome = await self._send(rest)
            if all(reply == b"OK" for reply in outcome):
                return
            if b"NOT_OWNER" in outcome:
                raise LostOwnershipError("another owner has taken it")
            logger.warning("commit outcome unclear (%s), reading back", _summary(outcome))
            cursor = await self._read_back()
            rest = [move for move in rest if position(move.next_cursor) > position(cursor)]
            if rest and rest[0].cursor != cursor:
                raise LostOwnershipError(f"the cursor is at {cursor}, not at {rest[0].cursor}: Redis lost writes")
            if b"VERSION" in outcome:
                raise LostOwnershipError("a session's log is not at the version we know")
            failures = failures + 1 if len(rest) == len(outcome) else 0
            await asyncio.sleep(pause_s(failures) if failures else 0)

    async def _send(self, moves: Sequence[Move]) -> list[Any]:
        calls = [
            evalsha(move.script, move.keys, [self._token, move.cursor, move.next_cursor, *move.args]) for move in moves
        ]
        try:
            return await self._wire.call(self._owned_key, calls)
        except (RedisError, OSError) as error:
            return [error]

    async def _read_back(self) -> str:
        """Read the cursor from Redis, which shows the moves that are committed; retries until Redis answers.

        Raises LostOwnershipError if Redis was restarted or has another owner's token.
        """
        failures = 0
        while True:
            try:
                server = await run_id(self._redis, self._owned_key)
                ((owner, cursor),) = await run_all(self._redis, [("HMGET", self._owned_key, "owner", "cursor")])
                await load_scripts(self._redis)  # a restarted Redis has none
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
            return str((cursor or b"0-0").decode())


def position(stream_id: str) -> tuple[int, int]:
    """A stream id as a pair of numbers, for comparisons."""
    milliseconds, _, sequence = stream_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _summary(outcome: Sequence[Any]) -> str:
    kinds = {reply.decode() if isinstance(reply, bytes) else type(reply).__name__ for reply in outcome}
    return ", ".join(sorted(kinds))
