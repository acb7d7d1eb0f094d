"""FastStream subscribers in cursor mode: plain XREAD from a cursor that our commits move.

No consumer group: group mode strands entries when a process stops or a connection drops, and nothing is server-side
here that could be stranded. What we change of FastStream, and what it gains, is in docs/decisions/002; the exact
version is pinned, and tests/runtime/ hold it to what we rely on.
"""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import faststream.redis.subscriber.usecases.stream_subscriber as stream_subscriber
from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.subscriber.usecases.stream_subscriber import StreamBatchSubscriber

Entry = tuple[bytes, dict[bytes, bytes]]
"""Stream id and fields, as Redis has them."""

# Stock value 5 s: too long for a call. The name is read at each use.
setattr(stream_subscriber, "CONSUME_ERROR_BACKOFF_SECONDS", 0.1)  # noqa: B010 - not exported, so typed as absent


class _CursorSub(StreamSub):
    """The stock class deep-copies itself for every message to add a prefix that we do not use."""

    __slots__ = ()

    def add_prefix(self, prefix: str) -> "_CursorSub":
        assert not prefix, "orch names its streams in full (keys.py)"
        return self


class _CursorSubscriber(StreamBatchSubscriber):
    """Hands a batch straight to the handler: no envelope, no dependency injection, no middleware to pay for."""

    __slots__ = ()

    async def consume_one(self, msg: Any) -> None:
        if self.running:
            with self.lock:  # stop() waits for the batch in hand
                await self.calls[0].handler(list(zip(msg["message_ids"], msg["data"], strict=True)))


def broker(url: str, max_connections: int) -> RedisBroker:
    """The broker; each running subscriber holds one of its connections.

    No socket timeout: under Python 3.11 redis-py pays for it with a task per command. A peer that is gone without a
    word is noticed by TCP keep-alive.
    """
    keep_alive: dict[str, Any] = {} if url.startswith("unix:") else {"socket_keepalive": True}
    return RedisBroker(
        url,
        apply_types=False,
        logger=cast("Any", None),
        graceful_timeout=2.0,
        max_connections=max_connections,
        socket_timeout=None,
        **keep_alive,
    )


class Subscription:
    """One stream, read in order from a cursor; the handler gets batches."""

    def __init__(
        self, owner: RedisBroker, stream: str, cursor: str, handler: Callable[[list[Entry]], Awaitable[None]]
    ) -> None:
        self._subscriber = owner.subscriber(
            stream=_CursorSub(stream, last_id=cursor, batch=True, max_records=64, polling_interval=4_000),
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
            persistent=False,
        )
        self._subscriber.__class__ = _CursorSubscriber  # the factory has no place to name a class of one's own
        self._subscriber(handler)

    async def start(self) -> None:
        await self._subscriber.start()

    async def stop(self) -> None:
        """Wait for the batch in hand, then stop reading."""
        await self._subscriber.stop()

    @property
    def running(self) -> bool:
        return bool(self._subscriber.running)
