"""Repairs the history of sessions without reading the feed: compares the log in Redis with the archive in SQL.

Where log and archive differ, the log is right. A session whose log is no longer in Redis keeps its archive.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from redis.asyncio import Redis

from events.codec import BadEventError
from orchestrator.runtime.redis.connection import ask
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import UnknownSessionError, all_logs, feed_ends, read_lines
from projections.history.fold import Changes, GapError, SessionHistory, folded, steps
from projections.history.store import History, Position, PositionMove, PositionMovedError

logger = logging.getLogger(__name__)

AT_ONCE = 200
"""Number of sessions whose last events are compared in one round trip."""
TRIES = 20
"""Number of attempts to repair a session. An attempt fails if another process writes to SQL first."""


@dataclass(slots=True)
class Repair:
    """The rows that must be written to SQL to repair the history of a session."""

    changes: Changes = field(default_factory=Changes)
    is_anew: bool = False
    """Whether the existing rows of the session must be removed first."""
    words: str = ""
    """The difference between log and archive that was found; empty: none."""


Look = Callable[[Redis, Keys, History, str], Awaitable[Repair]]
"""Type of the functions `reconcile` and `from_scratch`: they find the repair of a session."""


async def reconcile(redis: Redis, keys: Keys, history: History, session_id: str) -> Repair:
    """Compare the log of a session in Redis with its archive in SQL, and return the rows that repair the archive.

    The repair is empty if both are equal or Redis has no log. Raises RedisError; HistoryError if the database fails;
    BadEventError if a line cannot be read; GapError if versions are missing.
    """
    archive = await history.lines(session_id)
    try:
        log = await read_lines(redis, keys, session_id)
    except UnknownSessionError:
        return Repair()  # the log was archived or purged
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
    """Return the rows that replace all rows of a session in SQL. The rows are made from the session's log or, if Redis
    has no log, from its archive.

    Raises RedisError; HistoryError if the database fails; BadEventError if a line cannot be read; GapError if versions
    are missing.
    """
    try:
        lines = await read_lines(redis, keys, session_id)
    except UnknownSessionError:
        lines = await history.lines(session_id)
    return Repair(folded(session_id, keys.shard_of(session_id), lines), is_anew=True)


@dataclass(frozen=True, slots=True)
class Survey:
    """Positions and session ids that `resync` needs to repair the history of some shards. `ends` is read before the
    logs. So a step that is committed during the repair comes after `ends`, and the projection reads it from the feed
    later.
    """

    ends: dict[int, Position]
    """Shard → the position at which its feed ended when it was read."""
    before: dict[str, Position]
    """Key of a feed → its position in SQL when the survey was made."""
    logs: list[str]
    """Ids of all sessions with a log in Redis."""

    def move(self, keys: Keys, number: int) -> PositionMove:
        """Return the move that sets a shard's position in SQL to the end of its feed. `History.write` refuses the move
        if another process has changed the position since the survey.
        """
        return PositionMove(self.before[keys.feed(number)], self.ends[number])


async def survey(redis: Redis, keys: Keys, history: History, shards: set[int]) -> Survey:
    """Read where the feeds of these shards end, their positions in SQL, and the ids of all sessions with a log.

    `resync` needs them to repair the history of these shards. Raises RedisError, HistoryError.
    """
    end = await ends(redis, keys, shards)
    before = await history.positions([keys.feed(number) for number in shards])
    return Survey(end, before, sorted(await all_logs(redis, keys)))


async def differing(redis: Redis, keys: Keys, history: History, sessions: list[str]) -> list[str]:
    """Return the sessions whose last event in the log differs from their last event in SQL.

    Comparing the last events is enough: Redis loses only the end of a log, and the events that are committed in place
    of the lost events have other times and hashes.
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
    """Return shard → the position at which its feed ends now. Raises RedisError."""
    found = {}
    for number, last in (await feed_ends(redis, keys, shards)).items():
        found[number] = Position(keys.feed(number))
        if last is not None:
            stream_id, fields = last
            seq, version = int(stream_id.partition(b"-")[2]), int(fields[b"t"])
            found[number] = Position(keys.feed(number), seq, 0, fields[b"s"].decode(), version)
    return found


async def resync(
    redis: Redis, keys: Keys, history: History, number: int, found: Survey
) -> AsyncIterator[tuple[str, str]]:
    """Repair the history of a shard from its logs, then set the shard's position to the end of its feed.

    Repairs the sessions whose last event in the log differs from their last event in SQL. Yields (session id,
    difference) for each of them. `found`: the result of `survey`, which must be called before.

    Raises the errors of `reconcile`. Raises PositionMovedError if another process writes the history of the shard, too.
    """
    logs = [session_id for session_id in found.logs if keys.shard_of(session_id) == number]
    for session_id in await differing(redis, keys, history, logs):
        yield session_id, await _repair(redis, keys, history, session_id, reconcile)
    await history.write([found.move(keys, number)], Changes())


async def rebuild(redis: Redis, keys: Keys, history: History) -> AsyncIterator[tuple[str, str, int]]:
    """Rewrite all rows of all sessions, then set the shards' positions to the ends of their feeds.

    Yields (session id, problem, number of all sessions) for each session. The problem says why the session's log cannot
    be read; empty: its rows are new. A session with a problem keeps its old rows, and its shard keeps its old position.

    Raises RedisError, HistoryError. Raises PositionMovedError if TRIES attempts to rebuild a session fail, each because
    another process wrote to SQL first.
    """
    shards = set(range(keys.shards))
    found = await survey(redis, keys, history, shards)
    every = sorted({*found.logs, *await history.archived()})
    for session_id in every:
        problem = ""
        try:
            await _repair(redis, keys, history, session_id, from_scratch)
        except (BadEventError, GapError) as error:
            problem = str(error)
            shards.discard(keys.shard_of(session_id))
        yield session_id, problem, len(every)
    for number in sorted(shards):
        with suppress(PositionMovedError):  # a node projects at the same time, and its position is right
            await history.write([found.move(keys, number)], Changes())


async def _repair(redis: Redis, keys: Keys, history: History, session_id: str, look: Look) -> str:
    """Find the repair of one session with `look`, and write it. If another process writes to SQL in between, try again.

    Returns the difference that was found; empty: none. Raises PositionMovedError if TRIES attempts fail in this way.
    """
    stream = keys.feed(keys.shard_of(session_id))
    for attempt in range(TRIES):
        at = (await history.positions([stream]))[stream]
        repair = await look(redis, keys, history, session_id)
        if not repair.changes.events:
            return repair.words
        try:
            await history.write([PositionMove(at, at)], repair.changes, anew=[session_id] if repair.is_anew else [])
        except PositionMovedError:
            if attempt == TRIES - 1:
                raise
        else:
            return repair.words
    raise AssertionError("the last try returned or raised")
