"""Reads the feed of one shard for a projection, in batches of pointers without a gap. The next batch is read when the
projection has committed the last one.

A new connection does not show which writes Redis lost before. So on each new connection, the last projected pointer and
the step that it names are read again. If either has changed, the feed is a fork of the history: reading stops, and the
logs are compared instead.
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
"""Interval at which active feeds are read together, in one transaction instead of one per step."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """An entry of the feed: one step of a session, from its first to its last version."""

    seq: int
    session_id: str
    first: int
    last: int


class FeedError(RedisError):
    """Reading of the feed cannot continue from the projection's position."""


class Feed:
    """Reads the feed of one shard from a position on. Once `broken`, it must be replaced by a new Feed."""

    def __init__(
        self,
        broker: RedisBroker,
        keys: Keys,
        shard: int,
        position: Position,
        last_line: bytes,
        offer: Callable[["Feed"], None],
    ) -> None:
        """`last_line` is the last log line of the step that the position names; `offer` is called with each batch."""
        self.shard = shard
        self.position = position
        self.pointers: list[Pointer] = []
        """The batch that is being processed."""
        self.broken = ""
        """Why reading of the feed cannot continue; empty: it can."""
        self.is_fork = False
        """Whether SQL and Redis differ, so that the logs must be compared."""
        self.is_current = False
        """Whether all known pointers of the feed are written to SQL."""
        self._keys = keys
        self._last_line = last_line
        self._offer = offer
        self._connections = 0
        self._written = asyncio.Event()
        """Set when the current batch is written or given up."""
        self._stopped = asyncio.Event()
        cursor = f"0-{position.seq}"
        self._subscription = Subscription(broker, keys.feed(shard), cursor, self._handle, self._connected)

    async def start(self) -> None:
        await self._subscription.start()

    async def stop(self) -> None:
        """Stop reading. A batch that is not written yet is read again by the next Feed of this shard."""
        self._break("it was stopped")
        self._written.set()
        self._stopped.set()
        await self._subscription.stop()

    def written(self, position: Position) -> None:
        """Note that the current batch is committed to SQL, up to this position, so that the next batch is read."""
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
        """Whether the feed is connected, has passed the check for a fork, and is still being read."""
        return self._connections > 0 and self.running

    async def _handle(self, entries: list[Entry]) -> None:
        """Offer a batch of the feed to the projection, and wait until it is written to SQL; called by FastStream.

        A batch that does not follow the position without a gap breaks the feed.
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
        step would be read, and written in a transaction, alone.
        """
        now = asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(now - now % READ_EVERY_S + READ_EVERY_S):
                await self._stopped.wait()

    async def _connected(self, exchange: Exchange) -> None:
        """Check a new connection before the feed is read from it: does the feed continue from the position in SQL?

        `exchange` sends commands on that connection. Raises FeedError if the feed does not continue there, and on every
        connection after the first.
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
        """Compare replies of Redis with the position in SQL: why the feed does not continue there; empty: it does.

        `following`: the next pointer. `last`: the pointer at the position. `step`: the step that it names. `is_log`: 1
        if the log of that session is in Redis.
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
        if not last and not is_log:  # trimmed, and the log archived: nothing proves that it is the same feed
            return f"pointer {at.seq} is not there any more"
        return ""


def _pointer(entry: Entry) -> Pointer:
    stream_id, fields = entry
    seq = int(stream_id.partition(b"-")[2])
    return Pointer(seq, fields[b"s"].decode(), int(fields[b"f"]), int(fields[b"t"]))


def _fields(raw: Any) -> dict[bytes, bytes]:
    """The fields of an entry in the raw reply of Redis."""
    return dict(zip(raw[1][::2], raw[1][1::2], strict=True))


def _seq(raw: Any) -> int:
    return int(raw[0].partition(b"-")[2])


def _named(raw: Any) -> tuple[str, int]:
    fields = _fields(raw)
    return fields[b"s"].decode(), int(fields[b"t"])


def _last_line(raw: Any) -> bytes:
    return _fields(raw)[b"e"].rpartition(b"\n")[2]
