"""Repairs the history of a session without reading the feed: compares its log in Redis with the copy in SQL.

Where there is a log, the log counts. Sessions whose log Redis no longer has stay as they were archived.
"""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from redis.asyncio import Redis

from orchestrator.runtime.redis.connection import ask
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import UnknownSessionError, all_logs, feed_ends, read_lines
from projections.history.fold import Changes, SessionHistory, folded, steps
from projections.history.store import History, Move, Position, PositionMovedError

logger = logging.getLogger(__name__)

AT_ONCE = 200
"""Sessions whose last events are compared in one round trip."""
TRIES = 20
"""Attempts to repair a session. An attempt fails if the node that owns the session writes to SQL first."""


@dataclass(slots=True)
class Repair:
    """The rows to write to repair the history of a session."""

    changes: Changes = field(default_factory=Changes)
    is_anew: bool = False
    """Whether the existing rows of the session must be removed first."""
    words: str = ""
    """The difference between log and archive that was found; empty: none."""


async def reconcile(redis: Redis, keys: Keys, history: History, session_id: str) -> Repair:
    """Compare the log of a session in Redis with its archive in SQL, and return the rows that repair the archive.

    The repair is empty if both are equal or Redis has no log. Raises RedisError, HistoryError, BadEventError, GapError.
    """
    archive = await history.lines(session_id)
    try:
        log = await read_lines(redis, keys, session_id)
    except UnknownSessionError:
        return Repair()  # archived, or purged
    if log == archive:
        return Repair()
    known = (await history.load([session_id])).get(session_id)
    if log[: len(archive)] == archive and (known is not None or not archive):
        return Repair(_rest(keys, session_id, log[len(archive) :], known), words="versions were missing")
    words = f"the log has {len(log)} versions and differs from the {len(archive)} that were projected"
    return Repair(folded(session_id, keys.shard_of(session_id), log), is_anew=True, words=words)


def _rest(keys: Keys, session_id: str, lines: list[bytes], known: SessionHistory | None) -> Changes:
    if known is None:
        return folded(session_id, keys.shard_of(session_id), lines)
    changes = Changes()
    for step in steps(lines):
        known.take(step, changes)
    return changes


async def from_scratch(redis: Redis, keys: Keys, history: History, session_id: str) -> Repair:
    """Rebuild all rows of a session from its log, or from its archive if Redis has no log.

    Raises RedisError, HistoryError, BadEventError, GapError.
    """
    try:
        lines = await read_lines(redis, keys, session_id)
    except UnknownSessionError:
        lines = await history.lines(session_id)
    return Repair(folded(session_id, keys.shard_of(session_id), lines), is_anew=True)


async def logs_of(redis: Redis, keys: Keys, shards: set[int]) -> list[str]:
    """The sessions of these shards whose logs are in Redis. Raises RedisError."""
    return sorted(one for one in await all_logs(redis, keys) if keys.shard_of(one) in shards)


async def differing(redis: Redis, keys: Keys, history: History, sessions: list[str]) -> list[str]:
    """Return those of these sessions whose last event in the log differs from their last event in SQL.

    Redis loses only the end of a log, and the events committed in its place have other times and hashes. So equal last
    events mean equal logs.
    """
    found = []
    for start in range(0, len(sessions), AT_ONCE):
        part = sessions[start : start + AT_ONCE]
        projected = await history.last_lines(part)
        replies = await ask(redis, [("XREVRANGE", keys.log(one), "+", "-", "COUNT", 1) for one in part])
        for session_id, reply in zip(part, replies, strict=True):
            last = reply[0][1][b"e"].rpartition(b"\n")[2] if reply else None
            if last != projected.get(session_id):
                found.append(session_id)
    return found


async def ends(redis: Redis, keys: Keys, shards: set[int]) -> dict[int, Position]:
    """Shard → the position at which its feed ends now. Raises RedisError."""
    found = {}
    for number, last in (await feed_ends(redis, keys, shards)).items():
        found[number] = Position(keys.feed(number))
        if last is not None:
            stream_id, fields = last
            seq, version = int(stream_id.partition(b"-")[2]), int(fields[b"t"])
            found[number] = Position(keys.feed(number), seq, 0, fields[b"s"].decode(), version)
    return found


async def resync(
    redis: Redis, keys: Keys, history: History, shards: set[int], *, is_from_scratch: bool = False
) -> AsyncIterator[tuple[str, str, int]]:
    """Repair the history of these shards from the logs, then set the shards' positions to the ends of their feeds.

    The ends are read before the logs, so that no step is skipped. Yields for each session: its id, the difference that
    was found (empty: none), and the total number of sessions. Raises the errors of reconcile, and PositionMovedError
    if another process writes first again and again. `is_from_scratch`: rewrite all rows, right ones too.
    """
    end = await ends(redis, keys, shards)
    before = await history.positions([keys.feed(number) for number in shards])
    every = await logs_of(redis, keys, shards)
    if is_from_scratch:
        every = sorted({*every, *(one for one in await history.archived() if keys.shard_of(one) in shards)})
    else:
        every = await differing(redis, keys, history, every)
    for session_id in every:
        words = await _repair(redis, keys, history, session_id, is_from_scratch=is_from_scratch)
        yield session_id, words, len(every)
    for number in sorted(shards):
        try:
            await history.write([Move(before[keys.feed(number)], end[number])], Changes())
        except PositionMovedError:
            if not is_from_scratch:
                raise  # a node that projects at the same time has set a right position


async def _repair(redis: Redis, keys: Keys, history: History, session_id: str, *, is_from_scratch: bool) -> str:
    """Compare one session and write its repair. If another process has written to SQL meanwhile, compare again.

    Returns the difference that was found; empty: none. Raises PositionMovedError after TRIES attempts.
    """
    stream = keys.feed(keys.shard_of(session_id))
    look = from_scratch if is_from_scratch else reconcile
    for attempt in range(TRIES):
        at = (await history.positions([stream]))[stream]
        repair = await look(redis, keys, history, session_id)
        if not repair.changes.events:
            return repair.words
        try:
            await history.write([Move(at, at)], repair.changes, anew=[session_id] if repair.is_anew else [])
        except PositionMovedError:
            if attempt == TRIES - 1:
                raise
        else:
            return repair.words
    raise AssertionError("the last try returned or raised")
