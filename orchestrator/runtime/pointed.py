"""What the pointers in hand point at: the logs of all feeds, read in one round trip."""

from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio import Redis

from orchestrator.runtime.connection import run_all
from orchestrator.runtime.feed import Feed, Pointer
from orchestrator.runtime.keys import Keys

Logs = dict[str, list[Any]]
"""Session → the entries of its log that were asked for."""


def by_session(pointers: Iterable[Pointer]) -> dict[str, list[Pointer]]:
    """Session → its pointers, in order."""
    found: dict[str, list[Pointer]] = {}
    for pointer in pointers:
        found.setdefault(pointer.session_id, []).append(pointer)
    return found


async def read_logs(redis: Redis, keys: Keys, feeds: Sequence[Feed]) -> dict[int, Logs | Exception]:
    """Shard → the logs that the batch of its feed points at, or why they cannot be read. Raises RedisError, OSError."""
    wanted = [(feed.shard, *one) for feed in feeds for one in by_session(feed.pointers).items()]
    calls = [
        ("XRANGE", keys.log(session_id), f"0-{pointers[0].first}", f"0-{pointers[-1].last}")
        for _, session_id, pointers in wanted
    ]
    found: dict[int, Logs | Exception] = {feed.shard: {} for feed in feeds}
    for (shard, session_id, _), reply in zip(wanted, await run_all(redis, calls), strict=True):
        logs = found[shard]
        if isinstance(reply, Exception):
            found[shard] = reply
        elif not isinstance(logs, Exception):
            logs[session_id] = reply
    return found
