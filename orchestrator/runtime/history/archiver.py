"""Archiving: removes logs from Redis that are safe in SQL. Purging: erases sessions for good from Redis and SQL."""

from collections.abc import AsyncIterator, Iterable
from typing import cast

from redis.asyncio import Redis

from orchestrator.runtime.redis.connection import ask, evalsha, run_all
from orchestrator.runtime.redis.keys import INGRESSES, Keys
from orchestrator.runtime.redis.logs import UnknownSessionError, last_versions, read_lines
from projections.history.store import History

NAME = "history"
"""Name of the SQL history in `Keys.positions`, the hash in Redis with the position of each projection in the feed."""
FAR_BEHIND = 1_000
"""Number of feed pointers. If a projection is further than this behind the SQL history, `archive` keeps the shard's
logs in Redis: the projection may still need them.
"""
AT_ONCE = 100

DONE = ""
_REFUSED = {b"LIVE": "it is live", b"CHANGED": "its log went on while we looked"}


async def archive(
    redis: Redis, keys: Keys, history: History, before_us: int, *, is_dry: bool
) -> AsyncIterator[tuple[str, str]]:
    """Archive sessions: remove from Redis the logs of sessions that ended before `before_us` (microseconds since 1970).
    A log is removed only if the session's archive in SQL is whole and on disk.

    Yields (session id, reason) for each of these sessions that has a log in Redis. The reason says why the log was
    left; empty: the log was removed or, with `is_dry`, would be. Raises RedisError, HistoryError or TimeoutError if
    Redis or SQL fails.
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


async def purgeable(redis: Redis, keys: Keys, history: History, before_us: int) -> dict[str, int]:
    """Return session id → last version, for the sessions that may be erased: those that ended before `before_us`
    (microseconds since 1970), and lost sessions whose last event is from before `before_us`.

    Redis loses a session when it is wiped or replaced. A session counts as lost if it has not ended in SQL, Redis does
    not list it as live, and its log in Redis is missing or ends at the last version in SQL. Raises RedisError,
    HistoryError.
    """
    silent = await history.silent_since(before_us)
    sets = await ask(redis, [("SMEMBERS", keys.sessions(number)) for number in range(keys.shards)])
    live = {member.decode() for members in sets for member in cast("set[bytes]", members)}
    last = await last_versions(redis, keys, silent.keys() - live)
    lost = {one: at for one, at in silent.items() if one not in live and last.get(one, at) == at}
    return await history.ended_before(before_us) | lost


async def purge(
    redis: Redis, keys: Keys, history: History, before_us: int, *, is_dry: bool, only: frozenset[str] = frozenset()
) -> AsyncIterator[tuple[str, str]]:
    """Erase sessions for good from Redis and from SQL: sessions that ended before `before_us` (microseconds since
    1970), and sessions that Redis has lost, with a last event from before `before_us` (`purgeable`).

    `only`: of these sessions, erase only those named here, and no dead letters. Empty: erase all of these sessions, and
    the dead letters in SQL from before `before_us`.

    Yields (session id, reason) for each session. The reason says why the session was left; empty: it was erased or,
    with `is_dry`, would be. Raises RedisError, HistoryError or TimeoutError if Redis or SQL fails.
    """
    over = await purgeable(redis, keys, history, before_us)
    every = [session_id for session_id in over if not only or session_id in only]
    for start in range(0, len(every), AT_ONCE):
        part = {session_id: over[session_id] for session_id in every[start : start + AT_ONCE]}
        outcomes = dict.fromkeys(part, DONE)
        if not is_dry:
            outcomes = await _forget(redis, keys, part, is_all=True)
            await _trim_handled(redis, keys, {keys.shard_of(one) for one in part})
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


async def _trim_handled(redis: Redis, keys: Keys, shards: set[int]) -> None:
    """Remove the handled inputs from the inboxes of these shards and from all ingresses. Handled inputs may contain
    words of purged sessions.

    Raises RedisError if any of these streams cannot be trimmed. The caller then leaves the sessions in SQL, so that the
    next purge tries again.
    """
    streams = [(keys.shard(number), keys.inbox(number)) for number in sorted(shards)]
    streams += [(keys.ingress(number, "owned"), keys.ingress(number)) for number in range(INGRESSES)]
    await ask(redis, [evalsha("trim", [owned, stream], []) for owned, stream in streams])


async def published(redis: Redis, keys: Keys, shards: Iterable[int]) -> dict[int, dict[str, int]]:
    """Read the position of each projection. Returns shard → projection → number of the last feed pointer that the
    projection has written to its own store.
    """
    wanted = sorted(shards)
    replies = await ask(redis, [("HGETALL", keys.positions(number)) for number in wanted])
    found = {}
    for number, reply in zip(wanted, replies, strict=True):
        found[number] = {name.decode(): int(at) for name, at in cast("dict[bytes, bytes]", reply).items()}
    return found


async def _behind(redis: Redis, keys: Keys, shards: set[int]) -> dict[int, str]:
    """Return shard → name of a projection that is far behind: more than FAR_BEHIND feed pointers behind the SQL
    history. If several projections are, names any of them. Shards without such a projection are left out.

    The positions are read from Redis, where each projection writes its position from time to time.
    """
    behind = {}
    for number, positions in (await published(redis, keys, shards)).items():
        for name, at in positions.items():
            if at < positions.get(NAME, 0) - FAR_BEHIND:
                behind[number] = name
    return behind
