"""Keeps the history and its archive up to date: folds the feeds of this node's shards into SQL, in batches.

One task in a separate process (process.py) does this. It reads the next batch of a feed only when the current batch is
in SQL. After a failure, it begins again from the positions in SQL, with backoff.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError

from events.codec import BadEventError
from orchestrator.runtime.clock import now_us
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.history.archiver import NAME
from orchestrator.runtime.history.backoff import Pause, first_line, pause_s
from orchestrator.runtime.history.dead_letters import DeadLetters
from orchestrator.runtime.history.feed import Feed, Pointer
from orchestrator.runtime.history.lag import Lag
from orchestrator.runtime.history.pointed import by_session, read_logs
from orchestrator.runtime.history.reconcile import reconcile, resync, survey
from orchestrator.runtime.redis.connection import connect, run_all
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.subscribers import BATCH, broker
from orchestrator.teardown import end_within
from projections.history.fold import Changes, GapError, SessionHistory, new_session, steps
from projections.history.store import History, HistoryError, Position, PositionMove, PositionMovedError

logger = logging.getLogger(__name__)

GATHER_S = 0.1
"""Seconds that a batch waits for batches of other shards: they share a transaction, which costs less than one for each.
"""
MOST = 256
"""Number of pointers that fill a transaction. A backlog is written in transactions of this size, without a pause."""
LOOK_S = 0.5
KNOWN = 2_000
"""Limit on the sessions kept in memory. A session that is not in memory is read from SQL when it has a new event."""
CAREFUL = 64
"""After a failed transaction, the next CAREFUL transactions write one shard each instead of several shards. So a shard
that cannot be written to SQL does not hold up other shards.
"""

_FAILURES = (RedisError, OSError, HistoryError, BadEventError, GapError, PositionMovedError)

Owned = Callable[[], Mapping[int, str]]
"""Returns shard → fencing token, for the shards that this node owns. A new token means a new acquisition."""


@dataclass(slots=True)
class _Batch:
    """The folded batch of one feed: rows to write to SQL, and the position in the feed after them."""

    feed: Feed
    position: Position
    changes: Changes = field(default_factory=Changes)
    anew: list[str] = field(default_factory=list)
    """Sessions whose old rows are deleted before the new rows are written."""


class Projecting:
    """Writes the logs of this node's shards to SQL, from `start` to `stop`."""

    def __init__(self, redis_url: str, keys: Keys, history: History, owned: Owned, counters: Counters) -> None:
        self._keys = keys
        self._history = history
        self._owned = owned
        self._counters = counters
        self._redis = connect(redis_url)
        self._broker = broker(redis_url, keys.shards + 8)
        self._dead_letters = DeadLetters(self._redis, keys, history)
        self._feeds: dict[int, tuple[Feed, str]] = {}
        self._forked: set[int] = set()
        """Shards whose history must be repaired from the logs before their feeds are read again."""
        self._pauses: dict[int, Pause] = {}
        self._known: OrderedDict[str, SessionHistory] = OrderedDict()
        self._waiting: list[Feed] = []
        self._lag = Lag()
        self.has_written = asyncio.Event()
        """Set after the first write to SQL."""
        self._offered = asyncio.Event()
        self._next_look = 0.0
        self._careful = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def lag_s(self) -> float:
        """Estimated age of the oldest event missing in SQL, in seconds; 0: no missing event is known.

        The true age is greater if the oldest missing event was not read from Redis yet. The estimate also grows while
        the task that writes to SQL (`_run`) is stuck.
        """
        return self._lag.seconds(self._owned(), {number: feed for number, (feed, _) in self._feeds.items()})

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="history")

    async def stop(self) -> None:
        """Stop, and close all connections. Batches that are not in SQL yet are read again after the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._drop(list(self._feeds))
        await end_within("FastStream's broker", self._broker.stop(), counters=self._counters)
        await end_within("the connections to Redis", self._redis.aclose(), counters=self._counters)
        await end_within("the connections to the history", self._history.close(), counters=self._counters)

    async def _run(self) -> None:
        """Write the logs to SQL until cancelled; after an error, begin again, with backoff."""
        failures, is_open = 0, False
        while True:
            try:
                if not is_open:
                    await self._open()
                    is_open = True
                await self._round()
                failures = 0
            except Exception as error:
                self._counters["projection_failures"] += 1
                if not failures:  # logged once per outage
                    expected = isinstance(error, _FAILURES)
                    logger.warning("the history cannot be kept now: %s", first_line(error), exc_info=not expected)
                await self._drop(list(self._feeds))
                await asyncio.sleep(pause_s(failures))
                failures += 1

    async def _open(self) -> None:
        await self._history.open()
        await self._broker.connect()
        if made := await self._history.lay_out():
            logger.info("the history of %d sessions was made anew from the archive, for this version of orch", made)

    async def _round(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            await self._look(now)
            await self._dead_letters.project(list(self._feeds))
        await self._wait()
        await self._write_waiting()

    async def _look(self, now: float) -> None:
        """Stop broken feeds and feeds of shards that this node has lost; start the missing feeds of owned shards."""
        owned = dict(self._owned())
        over = [n for n, (feed, owner) in self._feeds.items() if owned.get(n) != owner or not feed.running]
        for number in over:
            feed = self._feeds[number][0]
            if feed.is_fork:
                logger.warning("the logs of shard %02d are compared with the history: %s", number, feed.broken)
                self._counters["projection_forks"] += 1
                self._forked.add(number)
        await self._drop(over)
        new = {n: owner for n, owner in owned.items() if n not in self._feeds and now >= self._pause(n).until}
        if new:
            await self._begin(new)

    async def _begin(self, new: Mapping[int, str]) -> None:
        if forked := self._forked & new.keys():
            await self._resync(forked)
            new = {number: owner for number, owner in new.items() if number not in self._forked}
        streams = {self._keys.feed(number): number for number in new}
        for stream, at in (await self._history.positions(list(streams))).items():
            number = streams[stream]
            lines = await self._history.lines(at.session_id, at.version, at.version) if at.seq else []
            feed = Feed(self._broker, self._keys, number, at, lines[0] if lines else b"", self._offer)
            self._feeds[number] = feed, new[number]
            await feed.start()
        await self._publish([feed for feed, _ in self._feeds.values() if feed.shard in new])

    async def _resync(self, shards: set[int]) -> None:
        """Repair the history of forked shards: shards whose feed does not continue from the position in SQL.

        If a log cannot be read, the repair of its shard fails, but not of the other shards. If Redis does not answer,
        all fail. A shard whose repair fails stays forked, and is retried with backoff.
        """
        try:
            found = await survey(self._redis, self._keys, self._history, shards)
        except (RedisError, OSError) as error:
            for number in shards:
                await self._fail(number, error)
            return
        for number in sorted(shards):
            try:
                async for session_id, words in resync(self._redis, self._keys, self._history, number, found):
                    if words:
                        logger.warning("the history of %s was made anew: %s", session_id, words)
                        self._counters["projection_rebuilds"] += 1
                self._forked.remove(number)
            except _FAILURES as error:
                await self._fail(number, error)

    async def _drop(self, numbers: list[int]) -> None:
        dropped = [self._feeds.pop(number)[0] for number in numbers if number in self._feeds]
        self._waiting = [feed for feed in self._waiting if feed not in dropped]
        await asyncio.gather(*(feed.stop() for feed in dropped), return_exceptions=True)
        gone = {feed.shard for feed in dropped}
        for session_id in [one for one in self._known if self._keys.shard_of(one) in gone]:
            del self._known[session_id]

    def _pause(self, number: int) -> Pause:
        return self._pauses.setdefault(number, Pause())

    def _offer(self, feed: Feed) -> None:
        self._waiting.append(feed)
        self._lag.behind(feed.shard, now_us())
        self._offered.set()

    async def _wait(self) -> None:
        """Wait for a batch, at most LOOK_S seconds. If there is a batch, wait GATHER_S more for batches of other
        shards, except during a backlog (a shard has a full batch, or all shards together have MOST pointers).
        """
        self._offered.clear()
        if not self._waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._offered.wait()
        waiting = [len(feed.pointers) for feed in self._waiting]
        is_backlog = max(waiting, default=0) >= BATCH or sum(waiting) >= MOST
        if waiting and not is_backlog:
            await asyncio.sleep(GATHER_S)

    def _take(self) -> list[Feed]:
        """Take feeds from the queue for a transaction, the longest-waiting first, until they have MOST pointers."""
        taken: list[Feed] = []
        while self._waiting and (not taken or sum(len(one.pointers) for one in taken) < MOST):
            feed = self._waiting.pop(0)
            if not feed.broken:
                taken.append(feed)
            if self._careful:
                self._careful -= 1
                break
        return taken

    async def _write_waiting(self) -> None:
        feeds = self._take()
        if not feeds:
            return
        try:
            batches = await self._fold_all(feeds)
            await self._commit(batches)
        except PositionMovedError as error:
            logger.info("another process projects, too: %s", error)
            await self._set_back(feeds)
        except HistoryError as error:
            if len(feeds) == 1 and not getattr(error, "connection_invalidated", False):
                await self._fail(feeds[0].shard, error)
                return
            self._careful = CAREFUL
            raise
        else:
            for batch in batches:
                self._pauses.pop(batch.feed.shard, None)

    async def _commit(self, batches: list[_Batch]) -> None:
        if not batches:
            return
        together, anew = Changes(), []
        for batch in batches:
            together.add(batch.changes)
            anew += batch.anew
        await self._history.write(
            [PositionMove(one.feed.position, one.position) for one in batches], together, anew=anew
        )
        for batch in batches:
            batch.feed.written(batch.position)
            self._lag.written(batch.feed, batch.changes.events[-1]["at_us"] if batch.changes.events else now_us())
        self._counters["projected"] += len(together.events)
        self.has_written.set()
        self._forget_some(together)
        await self._publish([batch.feed for batch in batches])

    async def _publish(self, feeds: Sequence[Feed]) -> None:
        """Write the positions of these feeds to Redis: commits may then trim the feeds up to these positions."""
        calls = [("HSET", self._keys.positions(feed.shard), NAME, feed.position.seq) for feed in feeds]
        if not calls:
            return
        try:
            await run_all(self._redis, calls)
        except (RedisError, OSError) as error:  # the next commit publishes them, too
            logger.info("positions could not be published: %s", error)

    def _forget_some(self, changes: Changes) -> None:
        for session_id, row in changes.sessions.items():
            if row["ended_us"] is not None:
                self._known.pop(session_id, None)
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)

    async def _set_back(self, feeds: Sequence[Feed]) -> None:
        """Stop the feeds. `_look` starts new feeds at the positions in SQL, LOOK_S seconds later."""
        now = asyncio.get_running_loop().time()
        for feed in feeds:
            self._pause(feed.shard).until = now + LOOK_S
        await self._drop([feed.shard for feed in feeds])

    async def _fail(self, number: int, error: Exception) -> None:
        """Stop the feed of a shard that cannot be written to SQL, and retry it with backoff. Other shards go on."""
        self._counters["projection_failures"] += 1
        pause = self._pause(number)
        if not pause.failures:
            logger.error("shard %02d cannot be projected: %s", number, first_line(error))
        pause.until = asyncio.get_running_loop().time() + pause_s(pause.failures)
        pause.failures += 1
        await self._drop([number])

    async def _fold_all(self, feeds: Sequence[Feed]) -> list[_Batch]:
        """Fold the batch of each feed. A feed whose batch cannot be folded is left out, and retried with backoff."""
        wanted = {pointer.session_id for feed in feeds for pointer in feed.pointers}
        self._known |= await self._history.load(sorted(wanted - self._known.keys()))
        try:
            entries = await read_logs(self._redis, self._keys, feeds)
        except (RedisError, OSError) as error:
            entries = {feed.shard: error for feed in feeds}
        batches = []
        for feed in feeds:
            try:
                batches.append(await self._fold(feed, entries[feed.shard]))
            except (BadEventError, GapError, RedisError, OSError) as error:
                await self._fail(feed.shard, error)
        return batches

    async def _fold(self, feed: Feed, logs: Mapping[str, list[Any]] | Exception) -> _Batch:
        """Fold the batch of one feed. `logs`: session id → the session's log entries; or the error with which reading
        them failed. Raises that error again.

        Also raises HistoryError if SQL fails, BadEventError if a log line cannot be read, GapError if a version is
        missing.
        """
        if isinstance(logs, Exception):
            raise logs
        last = feed.pointers[-1]
        batch = _Batch(feed, Position(feed.position.stream, last.seq, 0, last.session_id, last.last))
        for session_id, pointers in by_session(feed.pointers).items():
            changes = await self._fold_session(feed.shard, session_id, pointers, logs[session_id])
            if changes is None:
                changes = await self._repaired(batch, session_id)
            batch.changes.add(changes)
        if batch.changes.events:
            self._lag.behind(feed.shard, batch.changes.events[0]["at_us"])
        return batch

    async def _fold_session(
        self, shard: int, session_id: str, pointers: Sequence[Pointer], entries: Sequence[Any]
    ) -> Changes | None:
        """Fold log entries of a session, and return the rows to write to SQL. Returns None if SQL must be repaired
        first: SQL, pointers and log contradict each other.

        `pointers`: the session's pointers in the feed. `entries`: the log entries to which they point.
        """
        history = self._known.get(session_id) or SessionHistory(new_session(session_id, shard))
        if pointers[-1].last <= history.version:
            return await self._seen_before(session_id, pointers, entries)
        expected = [f"0-{pointer.last}".encode() for pointer in pointers]
        if pointers[0].first != history.version + 1 or [entry_id for entry_id, _ in entries] != expected:
            return None
        self._known[session_id] = history
        self._known.move_to_end(session_id)
        changes = Changes()
        lines = [line for _, fields in entries for line in fields[b"e"].split(b"\n")]
        try:
            for step in steps(lines):
                history.take(step, changes)
        except GapError:
            self._known.pop(session_id)
            return None
        return changes

    async def _seen_before(
        self, session_id: str, pointers: Sequence[Pointer], entries: Sequence[Any]
    ) -> Changes | None:
        """Compare steps that SQL has already with the log. SQL may be ahead of the feed after a repair from the logs
        (`_resync`).

        Returns empty changes (no rows to write) if log and SQL are equal, or the log was removed from Redis. Returns
        None if they differ: SQL must be repaired.
        """
        lines = [line for _, fields in entries for line in fields[b"e"].split(b"\n")]
        archived = await self._history.lines(session_id, pointers[0].first, pointers[-1].last)
        return Changes() if lines in (archived, []) else None

    async def _repaired(self, batch: _Batch, session_id: str) -> Changes:
        self._known.pop(session_id, None)
        repair = await reconcile(self._redis, self._keys, self._history, session_id)
        if repair.words:
            logger.warning("the history of %s was made right: %s", session_id, repair.words)
            self._counters["projection_rebuilds"] += 1
        if repair.is_anew:
            batch.anew.append(session_id)
        return repair.changes
