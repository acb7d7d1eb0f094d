"""Appending to inboxes: the one way in for producers of this process.

Stop-and-wait: one ordered queue per shard, the next batch leaves when the last was acknowledged, and what was not is
sent again under the same sequence numbers. So order is kept, and a repetition is recognised by the reducer.
"""

import asyncio
import logging
import time
from collections import deque
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
        if failed := [reply for reply in replies if isinstance(reply, Exception)]:
            logger.warning("append to %s failed (%s), trying again", stream, failed[0])
        return not failed

    async def close(self) -> None:
        """Send what is queued, then hang up."""
        await self.flush()
        await self._wire.close()

    async def flush(self) -> None:
        """Wait until everything queued so far has arrived."""
        while self._senders:
            await asyncio.gather(*self._senders.values())
