"""Reads the log entries to which the pointers of several feeds point, in one round trip."""

from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio import Redis

from orchestrator.runtime.history.feed import Feed, Pointer
from orchestrator.runtime.redis.connection import run_all
from orchestrator.runtime.redis.keys import Keys

Logs = dict[str, list[Any]]
"""Session id → the requested entries of the session's log."""


def by_session(pointers: Iterable[Pointer]) -> dict[str, list[Pointer]]:
    """Group feed pointers by their session. Returns session id → its pointers, in order."""
    found: dict[str, list[Pointer]] = {}
    for pointer in pointers:
        found.setdefault(pointer.session_id, []).append(pointer)
    return found


async def read_logs(redis: Redis, keys: Keys, feeds: Sequence[Feed]) -> dict[int, Logs | Exception]:
    """Read the log entries to which the current batches of these feeds point. Returns shard → (session id → its log
    entries); or shard → the error, if the shard's logs could not be read. Raises RedisError or OSError if no log could
    be read.
    """
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
