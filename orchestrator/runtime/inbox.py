"""Appending to inboxes: the one way in for producers of this process.

Stop-and-wait: one ordered queue per shard, its next batch leaves when the last was acknowledged, and what was not is
sent again under the same sequence numbers. So order is kept, and a repetition is recognised by the reducer. A Redis
that came back without its last writes gets those again that it had accepted from here, before anything newer.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import RedisError

from events.codec import encode
from events.envelope import Input
from orchestrator.runtime.clock import now_us
from orchestrator.runtime.connection import pause_s, wire
from orchestrator.runtime.keys import Keys
from orchestrator.runtime.second_life import Accepted

logger = logging.getLogger(__name__)

BATCH = 128
CLOSE_S = 2.0
"""How long a node that stops tries to append what is still queued."""
STALL_S = 1.0
"""What could not be appended for so long is a stall: callers are told that they wait."""
MOST_QUEUED = 20_000
"""Events, some 10 MB: what twenty calls say in half a minute. Then those who say so much are sent away."""


class Inbox:
    """Appends events to the inbox of their session's shard, in the order of the calls."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        stalls: Callable[[bool], None] = lambda _: None,
        overflows: Callable[[], None] = lambda: None,
    ) -> None:
        """`stalls` is told when appending begins to hang, and when it works again; `overflows` when the queue is full:
        it is to silence whoever says so much. Nothing that is appended all the same is ever dropped.
        """
        self._accepted = Accepted(keys)
        self._wire = wire(redis, self._accepted.compare)
        self._keys = keys
        self._producer = f"node-{uuid4().hex[:12]}"
        self._sequence = 0
        self._queues: defaultdict[int, deque[bytes]] = defaultdict(deque)
        self._senders: dict[int, asyncio.Task[None]] = {}
        self._appended: Counter[int] = Counter()
        self._arrived: Counter[int] = Counter()
        self._moved = asyncio.Event()
        self._failing: set[int] = set()
        self._stalled: dict[int, float] = {}
        """Shards, and since when what was said there has been waiting."""
        self._stalls = stalls
        self._overflows = overflows

    @property
    def is_stalled(self) -> bool:
        """Whether something has been waiting to be appended for more than STALL_S."""
        return bool(self._stalled)

    @property
    def stalled_s(self) -> float:
        """For how long something has been waiting to be appended; 0 where that is no stall."""
        return time.monotonic() - min(self._stalled.values()) if self._stalled else 0.0

    @property
    def queued(self) -> int:
        """How many events wait to be appended."""
        return self._appended.total() - self._arrived.total()

    def append(self, event: Input) -> None:
        """Queue an event; producer, sequence, id and observation time are set here. Never waits.

        One that has an id already may come again, by another node, too: its id tells, and it gets no sequence.
        """
        self._sequence += 1
        stamped = event.model_copy(
            update={
                "event_id": event.event_id or f"{self._producer}:{self._sequence}",
                "observed_at_us": now_us(),
                "producer": self._producer,
                "producer_seq": 0 if event.event_id else self._sequence,
            }
        )
        self._put(stamped)

    def forward(self, event: Input) -> None:
        """Queue an event of an outside producer under its own name and sequence."""
        self._put(event)

    def _put(self, event: Input) -> None:
        shard = self._keys.shard_of(event.session_id)
        self._queues[shard].append(encode(event))
        self._appended[shard] += 1
        self._wake(shard)
        if self._stalled and self.queued % MOST_QUEUED == 0:  # again with each so many, if it was in vain
            self._overflows()

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
        """Append until it works."""
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
                if not self._stalled:
                    self._stalls(False)

    def _stall(self, shard: int) -> None:
        first = not self._stalled
        self._stalled[shard] = time.monotonic() - STALL_S
        if first:
            self._stalls(True)

    async def _append(self, shard: int, batch: list[bytes]) -> bool:
        """Whether all of it arrived; if not, all of it is to be sent again."""
        stream = self._keys.inbox(shard)
        lines = self._accepted.lost.get(shard, []) + batch  # of a call that waits while something is lost, see Wire
        replies = await self._xadd(stream, lines)
        failed = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if failed is None:
            self._accepted.note(shard, replies, lines)
        if failed is not None and shard not in self._failing:  # said once, however long it lasts
            self._failing.add(shard)
            logger.warning("append to %s failed (%s), trying until it works", stream, failed)
        elif failed is None and shard in self._failing:
            self._failing.discard(shard)
            logger.warning("appending to %s works again", stream)
        return failed is None

    async def _xadd(self, stream: str, lines: list[bytes]) -> list[Any]:
        """What Redis says of each."""
        commands: list[tuple[str | bytes, ...]] = [("XADD", stream, "*", "e", line) for line in lines]
        if len(commands) > 1:
            # As one transaction: a blocked reader wakes once and gets them all, instead of the first alone.
            commands = [("MULTI",), *commands, ("EXEC",)]
        try:
            replies = await self._wire.call(stream, commands)
        except (RedisError, OSError) as error:
            return [error]
        return replies[-1] if isinstance(replies[-1], list) else replies

    async def close(self) -> None:
        """Send what is queued, as far as that is possible soon, then hang up."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), CLOSE_S)
        for sender in (senders := list(self._senders.values())):
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        if lost := self.queued:
            logger.error("%d events could not be appended: Redis does not answer", lost)
        await self._wire.close()

    async def flush(self) -> None:
        """Wait until everything queued so far has arrived; what is queued meanwhile is not waited for."""
        goals = dict(self._appended)
        while any(self._arrived[shard] < goal for shard, goal in goals.items()):
            self._moved.clear()
            await self._moved.wait()
