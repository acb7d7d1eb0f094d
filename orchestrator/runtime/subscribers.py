"""FastStream subscribers in cursor mode: plain XREAD from a cursor that our commits move.

Measured against stock subscribers in docs/decisions/002. No consumer group: group mode strands entries when a process
stops or a connection drops, and nothing is server-side here that could be stranded.
"""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import faststream.redis.subscriber.usecases.stream_subscriber as stream_subscriber
from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.message import RedisBatchStreamMessage

Entry = tuple[bytes, dict[bytes, bytes]]
"""Stream id and fields, as Redis has them."""

# Stock value 5 s: too long for a call. The name is read at each use (docs/decisions/002).
setattr(stream_subscriber, "CONSUME_ERROR_BACKOFF_SECONDS", 0.1)  # noqa: B010 - not exported, so typed as absent


class _CursorSub(StreamSub):
    """The stock class deep-copies itself for every message to add a prefix that we do not use."""

    __slots__ = ()

    def add_prefix(self, prefix: str) -> "_CursorSub":
        assert not prefix, "orch names its streams in full (keys.py)"
        return self


async def _parse(message: Any) -> RedisBatchStreamMessage:
    """Hand the entries through as they are: the codec reads them once, with better errors."""
    ids = message["message_ids"]
    return RedisBatchStreamMessage(
        message,
        b"",
        correlation_id="-",
        message_id=ids[0].decode() if ids else "0-0",
        consumer=cast("Any", None),
        group=None,
    )


async def _decode(message: RedisBatchStreamMessage) -> list[Entry]:
    raw: Any = message.raw_message
    return list(zip(raw["message_ids"], raw["data"], strict=True))


def broker(url: str, max_connections: int) -> RedisBroker:
    """The broker; each running subscriber holds one of its connections."""
    return RedisBroker(
        url,
        apply_types=False,
        logger=cast("Any", None),
        graceful_timeout=2.0,
        max_connections=max_connections,
        socket_timeout=10,
    )


class Subscription:
    """One stream, read in order from a cursor; the handler gets batches."""

    def __init__(
        self, owner: RedisBroker, stream: str, cursor: str, handler: Callable[[list[Entry]], Awaitable[None]]
    ) -> None:
        self._subscriber = owner.subscriber(
            stream=_CursorSub(stream, last_id=cursor, batch=True, max_records=64, polling_interval=4_000),
            ack_policy=AckPolicy.MANUAL,
            parser=_parse,
            decoder=_decode,
            no_reply=True,
            persistent=False,
        )
        self._subscriber(handler)

    async def start(self) -> None:
        await self._subscriber.start()

    async def stop(self) -> None:
        """Wait for the batch in hand, then stop reading."""
        await self._subscriber.stop()

    @property
    def running(self) -> bool:
        return bool(self._subscriber.running)
