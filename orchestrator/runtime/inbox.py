"""Appends events to the inboxes of shards, for all producers in this process.

Stop-and-wait: each shard has an ordered queue. The next batch of a queue is sent after Redis has acknowledged the last
batch. A batch that is not acknowledged is sent again with the same sequence numbers. So order is kept, and the reducer
recognises duplicates. When Redis restarts without its last writes, the lost entries of this process are appended again
before newer entries.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from redis.asyncio import Redis
from redis.exceptions import RedisError

from events.codec import encode
from events.envelope import Input
from orchestrator.runtime.clock import SteadyClock, now_us
from orchestrator.runtime.redis.connection import pause_s, wire
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.lost_writes import Accepted

logger = logging.getLogger(__name__)

BATCH = 128
CLOSE_S = 2.0
"""How long, in seconds, a stopping node tries to append the events that are still queued."""
STALL_S = 1.0
"""After this many seconds without an acknowledgement, an inbox counts as stalled, and clients get a warning."""
MOST_QUEUED = 20_000
"""Limit of the events that wait in this process while Redis takes none, some 10 MB: twenty sessions reach it in half a
minute. At the limit, clients are disconnected and reconnect later.
"""


_NODE = "node-"
_IS_NODE = re.compile(f"{_NODE}[0-9a-f]{{12}}(:.*)?")


def is_from_a_node(event: Input) -> bool:
    """Whether a node of orch produced the event, such as a transcript, a result or a timer. False: an outside producer
    sent the event.
    """
    return _IS_NODE.fullmatch(event.producer) is not None


class Inbox:
    """Appends each event to the inbox of its session's shard; the events of a shard keep their order."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        stalls: Callable[[bool], None] = lambda _: None,
        overflows: Callable[[], None] = lambda: None,
    ) -> None:
        """`stalls` is called with True when appending stalls, and with False when appending works again. `overflows` is
        called when appending stalls and MOST_QUEUED events wait: it should disconnect clients, so that fewer events
        come. The queue still takes every event, and drops none.
        """
        self.clocks: WeakValueDictionary[str, SteadyClock] = WeakValueDictionary()
        """Session id → the clock of its log, for the live sessions of this process. Events get their observation time
        from this clock.
        """
        self._accepted = Accepted(keys)
        self._wire = wire(redis, self._accepted.compare)
        self._keys = keys
        self._producer = f"{_NODE}{uuid4().hex[:12]}"
        self._sequence = 0
        self._queues: defaultdict[int, deque[bytes]] = defaultdict(deque)
        self._senders: dict[int, asyncio.Task[None]] = {}
        self._appended: Counter[int] = Counter()
        self._arrived: Counter[int] = Counter()
        self._moved = asyncio.Event()
        self._failing: dict[int, set[type[Exception]]] = {}
        """Shard whose appends fail now → the kinds of errors that were logged since they fail."""
        self._stalled: dict[int, float] = {}
        """Stalled shard → since when its oldest batch has been waiting, by the monotonic clock."""
        self._stalls = stalls
        self._overflows = overflows

    @property
    def is_stalled(self) -> bool:
        """Whether a batch has been waiting to be appended for more than STALL_S."""
        return bool(self._stalled)

    @property
    def stalled_s(self) -> float:
        """How long the oldest batch has been waiting to be appended, in seconds; 0 until it has waited for STALL_S."""
        return time.monotonic() - min(self._stalled.values()) if self._stalled else 0.0

    @property
    def queued(self) -> int:
        """How many events wait to be appended."""
        return self._appended.total() - self._arrived.total()

    def append(self, event: Input) -> None:
        """Queue an event, after setting its producer, sequence number, id and observation time. Never waits.

        An event that already has an id keeps the id and gets no sequence number. Two nodes may report the same event
        under one id: the reducer then recognises the duplicate.
        """
        self._put(self.stamped(event))

    def stamped(self, event: Input) -> Input:
        """Return a copy of the event with the producer, sequence number, id and observation time that `append` sets.
        The producer is this node's name, or `NODE:PRODUCER` if the event names a producer.
        """
        self._sequence += 1
        clock = self.clocks.get(event.session_id)
        return event.replace(
            event_id=event.event_id or f"{self._producer}:{self._sequence}",
            observed_at_us=clock.now_us() if clock else now_us(),
            producer=f"{self._producer}:{event.producer}" if event.producer else self._producer,
            producer_seq=0 if event.event_id else self._sequence,
        )

    def forward(self, event: Input) -> int:
        """Queue an event of an outside producer, with the name and sequence number that the producer gave it.

        Returns the shard to whose inbox the event goes.
        """
        return self._put(event)

    def has_stamped(self, event: Input) -> bool:
        """Whether `append` has set this process as the event's producer. False also if a part of this process is the
        producer (`NODE:PRODUCER`).
        """
        return event.producer == self._producer

    def note_end(self, session_id: str) -> None:
        """Record that a session has ended: its events are not appended again after Redis has lost writes."""
        self._accepted.note_end(session_id)

    def _put(self, event: Input) -> int:
        shard = self._keys.shard_of(event.session_id)
        self._queues[shard].append(encode(event))
        self._appended[shard] += 1
        self._wake(shard)
        if self._stalled and self.queued % MOST_QUEUED == 0:  # again at each multiple of the limit
            self._overflows()
        return shard

    def _wake(self, shard: int) -> None:
        if shard not in self._senders:
            self._senders[shard] = asyncio.create_task(self._send(shard), name=f"inbox:{shard:02d}")

    async def _send(self, shard: int) -> None:
        queue = self._queues[shard]
        try:
            while queue or shard in self._accepted.lost:
                batch = [queue[index] for index in range(min(len(queue), BATCH))]
                await self._deliver(shard, batch)
                for _ in batch:
                    queue.popleft()
                self._arrived[shard] += len(batch)
                self._moved.set()
        finally:
            del self._senders[shard]

    async def _deliver(self, shard: int, batch: list[bytes]) -> None:
        """Append a batch; retry with backoff until it succeeds."""
        alarm = asyncio.get_running_loop().call_later(STALL_S, self._stall, shard)
        failures = 0
        try:
            while not await self._append(shard, batch):
                for other in self._accepted.lost:
                    self._wake(other)
                await asyncio.sleep(pause_s(failures))
                failures += 1
        finally:
            alarm.cancel()
            if shard in self._stalled:
                del self._stalled[shard]
                if not self._stalled:  # called by the event loop: if it raises, the sender goes on
                    asyncio.get_running_loop().call_soon(self._stalls, False)

    def _stall(self, shard: int) -> None:
        first = not self._stalled
        self._stalled[shard] = time.monotonic() - STALL_S
        if first:
            self._stalls(True)
            if self.queued >= MOST_QUEUED:  # the limit was passed before the stall was noticed
                self._overflows()

    async def _append(self, shard: int, batch: list[bytes]) -> bool:
        """Try once to append a batch. Returns whether all of it arrived; if not, the whole batch must be sent again."""
        stream = self._keys.inbox(shard)
        server = self._accepted.server(shard)
        lines = self._accepted.lost.get(shard, []) + batch  # a retry after a loss begins with the lost entries
        try:
            replies = await self._xadd(stream, lines)
            failed = next((reply for reply in replies if isinstance(reply, Exception)), None)
            if failed is None:
                self._accepted.note(shard, replies, lines, server)
        except Exception as error:  # noqa: BLE001 - logged below; if the sender ended, its queue would wait for ever
            failed = error
        self._log(shard, stream, failed)
        return failed is None

    def _log(self, shard: int, stream: str, failed: Exception | None) -> None:
        """Log the outcome of an attempt to append (`failed` None: it worked), once per outage. An error that is no
        error of Redis is logged with its traceback, each kind once per outage.
        """
        if failed is None:
            if self._failing.pop(shard, None) is not None:
                logger.warning("appending to %s works again", stream)
            return
        is_bug = not isinstance(failed, RedisError | OSError)
        if shard not in self._failing or (is_bug and type(failed) not in self._failing[shard]):
            self._failing.setdefault(shard, set()).add(type(failed))
            what, trace = (repr(failed), failed) if is_bug else (failed, None)
            level = logging.ERROR if is_bug else logging.WARNING
            logger.log(level, "append to %s failed (%s), trying until it works", stream, what, exc_info=trace)

    async def _xadd(self, stream: str, lines: list[bytes]) -> list[Any]:
        """Send the XADD commands. Returns one reply per line, or a single error if the connection failed."""
        commands: list[tuple[str | bytes, ...]] = [("XADD", stream, "*", "e", line) for line in lines]
        if len(commands) > 1:
            # As one transaction: a reader that waits in XREAD gets all entries at once, not the first entry alone.
            commands = [("MULTI",), *commands, ("EXEC",)]
        try:
            replies = await self._wire.call(stream, commands)
        except (RedisError, OSError) as error:
            return [error]
        return replies[-1] if isinstance(replies[-1], list) else replies

    async def close(self) -> None:
        """Try for at most CLOSE_S seconds to send the queued events, then close the connection."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), CLOSE_S)
        for sender in (senders := list(self._senders.values())):
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        if lost := self.queued:
            logger.error("%d events could not be appended: Redis does not answer", lost)
        await self._wire.close()

    async def flush(self, shards: Collection[int] | None = None) -> None:
        """Wait until all events queued so far have arrived in the inboxes of these shards (None: of all shards). Events
        that are queued during the wait do not prolong it.
        """
        goals = {shard: self._appended[shard] for shard in (self._appended if shards is None else shards)}
        while any(self._arrived[shard] < goal for shard, goal in goals.items()):
            self._moved.clear()
            await self._moved.wait()
