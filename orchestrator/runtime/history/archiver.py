"""Archiving and purging: archiving removes logs from Redis that are safe in SQL; purging removes them from both."""

from collections.abc import AsyncIterator, Iterable
from typing import cast

from redis.asyncio import Redis

from orchestrator.runtime.redis.connection import ask, evalsha, run_all
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import UnknownSessionError, read_lines
from projections.history.store import History

NAME = "history"
"""Name of the SQL history among the projections that publish their positions in Redis."""
FAR_BEHIND = 1_000
"""Number of feed pointers. A projection that is this far behind the history may still need the logs in Redis."""
AT_ONCE = 100

DONE = ""
_REFUSED = {b"LIVE": "it is live", b"CHANGED": "its log went on while we looked"}


async def archive(
    redis: Redis, keys: Keys, history: History, before_us: int, *, is_dry: bool
) -> AsyncIterator[tuple[str, str]]:
    """Remove from Redis the logs of sessions that ended before a time and whose archive is whole and on disk.

    Yields each session that has a log in Redis, with the reason why the log was left (empty: it was removed, or with
    `is_dry` would be). Raises RedisError, HistoryError, TimeoutError.
    """
    ended = list(await history.ended_before(before_us))
    behind = await _behind(redis, keys, {keys.shard_of(session_id) for session_id in ended})
    for start in range(0, len(ended), AT_ONCE):
        whole: dict[str, int] = {}
        for session_id in ended[start : start + AT_ONCE]:
            try:
                log = await read_lines(redis, keys, session_id)
            except UnknownSessionError:
                continue  # archived before
            if waiting := behind.get(keys.shard_of(session_id)):
                yield session_id, f"the projection {waiting} may still need its log"
            elif log != await history.lines(session_id):
                yield session_id, "its archive differs from its log; make it right: orch projections rebuild history"
            else:
                whole[session_id] = len(log)
        if is_dry or not whole:
            outcomes = dict.fromkeys(whole, DONE)
        else:
            await history.settle()
            outcomes = await _forget(redis, keys, whole, is_all=False)
        for outcome in outcomes.items():
            yield outcome


async def purge(
    redis: Redis, keys: Keys, history: History, before_us: int, *, is_dry: bool, only: frozenset[str] = frozenset()
) -> AsyncIterator[tuple[str, str]]:
    """Remove sessions that ended before a time from Redis and from SQL, including the archive.

    With `only`, removes just these sessions. Without it, also removes dead letters from before that time. Yields each
    session with the reason why it was left (empty: it was removed, or with `is_dry` would be).
    """
    ended = await history.ended_before(before_us)
    every = [session_id for session_id in ended if not only or session_id in only]
    for start in range(0, len(every), AT_ONCE):
        part = {session_id: ended[session_id] for session_id in every[start : start + AT_ONCE]}
        outcomes = dict.fromkeys(part, DONE)
        if not is_dry:
            outcomes = await _forget(redis, keys, part, is_all=True)
            await history.forget([session_id for session_id, words in outcomes.items() if words == DONE])
        for outcome in outcomes.items():
            yield outcome
    if not (is_dry or only):
        await history.forget_dead_letters(before_us // 1_000)


async def _forget(redis: Redis, keys: Keys, sessions: dict[str, int], *, is_all: bool) -> dict[str, str]:
    calls = [
        evalsha(
            "forget",
            [keys.log(one), keys.state(one), keys.sessions(keys.shard_of(one))],
            [one, version, "all" if is_all else ""],
        )
        for one, version in sessions.items()
    ]
    replies = await run_all(redis, calls)
    return {
        session_id: str(reply) if isinstance(reply, Exception) else _REFUSED.get(reply, DONE)
        for session_id, reply in zip(sessions, replies, strict=True)
    }


async def published(redis: Redis, keys: Keys, shards: Iterable[int]) -> dict[int, dict[str, int]]:
    """Shard → projection → the last pointer that the projection has written to its own store."""
    wanted = sorted(shards)
    replies = await ask(redis, [("HGETALL", keys.positions(number)) for number in wanted])
    found = {}
    for number, reply in zip(wanted, replies, strict=True):
        found[number] = {name.decode(): int(at) for name, at in cast("dict[bytes, bytes]", reply).items()}
    return found


async def _behind(redis: Redis, keys: Keys, shards: set[int]) -> dict[int, str]:
    """Shard → name of a projection that is more than FAR_BEHIND pointers behind the history in this shard. Shards
    without such a projection are left out.
    """
    behind = {}
    for number, positions in (await published(redis, keys, shards)).items():
        for name, at in positions.items():
            if at < positions.get(NAME, 0) - FAR_BEHIND:
                behind[number] = name
    return behind
