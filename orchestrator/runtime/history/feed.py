"""Reads the feed of one shard for a projection, in batches of pointers without a gap.

The next batch is read when the current batch is written to SQL. A feed is a *fork* if it does not continue from the
position that is stored in SQL, for example because Redis has lost writes. The reading of a fork stops, and the history
is repaired from the logs.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faststream.redis import RedisBroker
from redis.exceptions import RedisError

from orchestrator.runtime.redis.connection import Entry
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.subscribers import BATCH, Subscription
from orchestrator.runtime.redis.wire import Exchange
from projections.history.store import Position

READ_EVERY_S = 1.0
"""Interval, in seconds, at which all feeds with new steps are read together. These steps then share one SQL
transaction, instead of one transaction per step.
"""


@dataclass(frozen=True, slots=True)
class Pointer:
    """An entry of the feed, with the number `seq`. It points to one step: session, first and last version."""

    seq: int
    session_id: str
    first: int
    last: int


class FeedError(RedisError):
    """The feed cannot be read further from the position of the projection."""


class Feed:
    """Reads the feed of one shard, from a position on. Once `broken` is set, a new Feed must replace this Feed."""

    def __init__(
        self,
        broker: RedisBroker,
        keys: Keys,
        shard: int,
        position: Position,
        last_line: bytes,
        offer: Callable[["Feed"], None],
    ) -> None:
        """`offer` is called with this feed when a new batch is in `pointers`. `last_line` is the last log line of the
        step at `position`. This line is compared with the log in Redis, to find out whether Redis has lost writes
        (`_forked`).
        """
        self.shard = shard
        self.position = position
        self.pointers: list[Pointer] = []
        """The current batch: pointers that were read and are not in SQL yet."""
        self.broken = ""
        """The reason why this Feed has stopped reading; empty: it has not stopped."""
        self.is_fork = False
        """Whether SQL and Redis differ, so that the history must be repaired from the logs."""
        self.is_current = False
        """Whether all known pointers of the feed are written to SQL."""
        self._keys = keys
        self._last_line = last_line
        self._offer = offer
        self._connections = 0
        self._written = asyncio.Event()
        """Set when the current batch is written to SQL or given up."""
        self._stopped = asyncio.Event()
        cursor = f"0-{position.seq}"
        self._subscription = Subscription(broker, keys.feed(shard), cursor, self._handle, self._connected)

    async def start(self) -> None:
        await self._subscription.start()

    async def stop(self) -> None:
        """Stop reading. A batch that is not in SQL yet is read again by the next Feed of this shard."""
        self._break("it was stopped")
        self._written.set()
        self._stopped.set()
        await self._subscription.stop()

    def written(self, position: Position) -> None:
        """Record that the current batch is committed to SQL, up to this position, so that the next batch is read."""
        self.position = position
        self.is_current = len(self.pointers) < BATCH
        self.pointers = []
        self._written.set()

    def _break(self, words: str, *, is_fork: bool = False) -> None:
        if not self.broken:
            self.broken, self.is_fork = words, is_fork

    @property
    def running(self) -> bool:
        return not self.broken and self._subscription.running

    @property
    def reads(self) -> bool:
        """Whether the feed is being read, and was found to continue from the position in SQL (`_connected`)."""
        return self._connections > 0 and self.running

    async def _handle(self, entries: list[Entry]) -> None:
        """Offer a batch of the feed to the projection, and wait until the batch is written to SQL; called by
        FastStream.

        The numbers of the pointers must follow `position`, the last pointer in SQL, without a gap. If pointers are
        missing, sets `broken` and `is_fork`: the history must be repaired from the logs. Once the feed is broken, waits
        for `stop`, so that FastStream reads no further.
        """
        if not self.broken:
            pointers = [_pointer(entry) for entry in entries]
            expected = list(range(self.position.seq + 1, self.position.seq + 1 + len(pointers)))
            if [pointer.seq for pointer in pointers] == expected:
                self.pointers, self.is_current = pointers, False
                self._written.clear()
                self._offer(self)
                await self._written.wait()
                if self.is_current:
                    await self._rest()
                return
            self._break(f"pointer {pointers[0].seq} follows {self.position.seq}", is_fork=True)
        await self._stopped.wait()

    async def _rest(self) -> None:
        """Wait for the next moment at which all feeds are read together (every READ_EVERY_S). Without this pause, each
        step would be read alone, and written in its own transaction.
        """
        now = asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(now - now % READ_EVERY_S + READ_EVERY_S):
                await self._stopped.wait()

    async def _connected(self, exchange: Exchange) -> None:
        """Check a new connection before the feed is read from it: does the feed continue from the position in SQL?
        Raises FeedError if it does not. `exchange` sends commands on that connection.

        A Feed reads from one connection only. For any connection after it, raises FeedError without a check: a new Feed
        must begin at the position in SQL.
        """
        if self._connections or self.broken:
            self._break("the connection was lost")  # writes may be lost with it: begin again from the position in SQL
            raise FeedError(self.broken)
        at, feed = self.position, self._keys.feed(self.shard)
        following = ("XRANGE", feed, f"0-{at.seq + 1}", "+", "COUNT", 1)
        if not at.seq:
            replies = await exchange([following])
        else:
            entry, step = f"0-{at.seq}", f"0-{at.version}"
            log = self._keys.log(at.session_id)
            last = [("XRANGE", feed, entry, entry), ("XRANGE", log, step, step), ("EXISTS", log)]
            replies = await exchange([following, *last])
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        if words := self._forked(*replies):
            self._break(words, is_fork=True)
            raise FeedError(words)
        self.is_current = not replies[0]
        self._connections += 1

    def _forked(
        self, following: list[Any], last: list[Any] | None = None, step: list[Any] | None = None, is_log: int = 1
    ) -> str:
        """Detect a fork: the feed in Redis does not continue from the position in SQL, for example after lost writes.

        Returns the reason; empty: the feed continues. The arguments are replies of Redis. Each list has one entry, or
        is empty if Redis does not have that entry.

        Args:
            following: the first pointer after the position.
            last: the pointer at the position; None: the position is the start of the feed.
            step: the step at the position, from the log of its session.
            is_log: 1 if Redis has that log, else 0.

        """
        at = self.position
        if following and _seq(following[0]) != at.seq + 1:
            return f"pointer {_seq(following[0])} follows {at.seq}"
        if last is None:
            return ""
        if last and _named(last[0]) != (at.session_id, at.version):
            return f"pointer {at.seq} is not the one that was projected"
        if is_log and (not step or _last_line(step[0]) != self._last_line):
            return f"{at.session_id} has another version {at.version} than the one that was projected"
        if not last and not is_log:  # pointer and log are gone: nothing proves that SQL was written from this feed
            return f"pointer {at.seq} is not there any more"
        return ""


def _pointer(entry: Entry) -> Pointer:
    stream_id, fields = entry
    seq = int(stream_id.partition(b"-")[2])
    return Pointer(seq, fields[b"s"].decode(), int(fields[b"f"]), int(fields[b"t"]))


def _fields(raw: Any) -> dict[bytes, bytes]:
    """Return the fields of an entry, from the raw reply of Redis."""
    return dict(zip(raw[1][::2], raw[1][1::2], strict=True))


def _seq(raw: Any) -> int:
    return int(raw[0].partition(b"-")[2])


def _named(raw: Any) -> tuple[str, int]:
    fields = _fields(raw)
    return fields[b"s"].decode(), int(fields[b"t"])


def _last_line(raw: Any) -> bytes:
    return _fields(raw)[b"e"].rpartition(b"\n")[2]
