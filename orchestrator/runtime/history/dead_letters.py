"""Copies dead letters of owned shards and of all ingresses to SQL. SQL also stores how far each stream is copied."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.runtime.redis.connection import run_all
from orchestrator.runtime.redis.keys import INGRESSES, Keys
from projections.history.fold import Changes
from projections.history.store import History, Position, PositionMove, PositionMovedError

logger = logging.getLogger(__name__)

EVERY_S = 2.0
MOST = 100


class DeadLetters:
    """Copies new dead letters from Redis to SQL, at most every EVERY_S seconds."""

    def __init__(self, redis: Redis, keys: Keys, history: History) -> None:
        self._redis = redis
        self._keys = keys
        self._history = history
        self._positions: dict[str, Position] = {}
        self._next = 0.0

    async def project(self, shards: Sequence[int]) -> None:
        """Write new dead letters of these shards and of all ingresses to SQL. Raises HistoryError if SQL fails.

        Does nothing if it last ran less than EVERY_S seconds ago. A stream that cannot be read now is read next time.
        """
        now = asyncio.get_running_loop().time()
        if now < self._next:
            return
        self._next = now + EVERY_S
        streams = [
            *map(self._keys.unroutable, shards),
            *(self._keys.ingress(n, "unroutable") for n in range(INGRESSES)),
        ]
        if missing := [stream for stream in streams if stream not in self._positions]:
            self._positions |= await self._history.positions(missing)
        at = [self._positions[stream] for stream in streams]
        calls = [("XRANGE", one.stream, f"({one.ms}-{one.seq}", "+", "COUNT", MOST) for one in at]
        try:
            replies = await run_all(self._redis, calls)
        except (RedisError, OSError) as error:
            replies = [error]
        if failed := [reply for reply in replies if isinstance(reply, Exception)]:
            logger.info("dead letters cannot be read now: %s", failed[0])
        for position, entries in zip(at, replies, strict=False):
            if entries and not isinstance(entries, Exception):
                await self._write(position, entries)

    async def _write(self, at: Position, entries: list[Any]) -> None:
        rows = []
        for entry_id, fields in entries:
            ms, seq = map(int, entry_id.split(b"-"))
            words = {name: fields.get(name, b"").decode(errors="replace") for name in (b"reason", b"e", b"where")}
            row = {"stream": at.stream, "ms": ms, "seq": seq, "reason": words[b"reason"]}
            rows.append(row | {"line": words[b"e"], "context": words[b"where"]})
        new = Position(at.stream, rows[-1]["seq"], rows[-1]["ms"])
        try:
            await self._history.write([PositionMove(at, new)], Changes(), dead_letters=rows)
        except PositionMovedError:  # another node wrote first
            del self._positions[at.stream]
        else:
            self._positions[at.stream] = new
