"""Appending to inboxes: the one way in for producers of this process.

Stop-and-wait: one ordered queue per shard, the next batch leaves when the last was acknowledged, and what was not is
sent again under the same sequence numbers. So order is kept, and a repetition is recognised by the reducer.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import RedisError

from events.codec import encode
from events.envelope import Input
from orchestrator.runtime.keys import Keys
from orchestrator.runtime.wire import Wire

logger = logging.getLogger(__name__)

BACKOFF_S = 0.05
BATCH = 128
CLOSE_S = 2.0
"""How long a node that stops tries to append what is still queued."""


def now_us() -> int:
    """Wall-clock time in microseconds since 1970."""
    return time.time_ns() // 1000


class Inbox:
    """Appends events to the inbox of their session's shard, in the order of the calls."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._wire = Wire(redis)
        self._keys = keys
        self._producer = f"node-{uuid4().hex[:12]}"
        self._sequence = 0
        self._queues: dict[int, deque[bytes]] = {}
        self._senders: dict[int, asyncio.Task[None]] = {}
        self._arrived: Counter[int] = Counter()
        self._moved = asyncio.Event()
        self._failing: set[str] = set()

    def append(self, event: Input) -> None:
        """Queue an event; producer, sequence, id and observation time are set here. Never waits."""
        self._sequence += 1
        stamped = event.model_copy(
            update={
                "event_id": f"{self._producer}:{self._sequence}",
                "observed_at_us": now_us(),
                "producer": self._producer,
                "producer_seq": self._sequence,
            }
        )
        self._put(stamped)

    def forward(self, event: Input) -> None:
        """Queue an event of an outside producer under its own name and sequence."""
        self._put(event)

    def _put(self, event: Input) -> None:
        shard = self._keys.shard_of(event.session_id)
        self._queues.setdefault(shard, deque()).append(encode(event))
        if shard not in self._senders:
            self._senders[shard] = asyncio.create_task(self._send(shard), name=f"inbox:{shard:02d}")

    async def _send(self, shard: int) -> None:
        queue, stream = self._queues[shard], self._keys.inbox(shard)
        try:
            while queue:
                batch = [queue[index] for index in range(min(len(queue), BATCH))]
                if await self._append(stream, batch):
                    for _ in batch:
                        queue.popleft()
                    self._arrived[shard] += len(batch)
                    self._moved.set()
                else:
                    await asyncio.sleep(BACKOFF_S)
        finally:
            del self._senders[shard]

    async def _append(self, stream: str, batch: list[bytes]) -> bool:
        """Whether all of it arrived; if not, all of it is sent again."""
        commands: list[tuple[str | bytes, ...]] = [("XADD", stream, "*", "e", line) for line in batch]
        if len(commands) > 1:
            # As one transaction: a blocked reader wakes once and gets them all, instead of the first alone.
            commands = [("MULTI",), *commands, ("EXEC",)]
        try:
            replies = await self._wire.call(commands)
        except (RedisError, OSError) as error:
            replies = [error]
        if replies and isinstance(replies[-1], list):
            replies = replies[-1]  # what EXEC says of each
        failed = [reply for reply in replies if isinstance(reply, Exception)]
        if failed and stream not in self._failing:  # said once, however long it lasts
            self._failing.add(stream)
            logger.warning("append to %s failed (%s), trying until it works", stream, failed[0])
        elif not failed and stream in self._failing:
            self._failing.discard(stream)
            logger.warning("appending to %s works again", stream)
        return not failed

    async def close(self) -> None:
        """Send what is queued, as far as that is possible soon, then hang up."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), CLOSE_S)
        for sender in (senders := list(self._senders.values())):
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        if lost := sum(map(len, self._queues.values())):
            logger.error("%d events could not be appended: Redis does not answer", lost)
        await self._wire.close()

    async def flush(self) -> None:
        """Wait until everything queued so far has arrived; what is queued meanwhile is not waited for."""
        goals = {shard: self._arrived[shard] + len(queue) for shard, queue in self._queues.items()}
        while any(self._arrived[shard] < goal for shard, goal in goals.items()):
            self._moved.clear()
            await self._moved.wait()
