"""FastStream subscribers in cursor mode: plain XREAD from a cursor that our commits move.

No consumer group: group mode strands entries when a process stops or a connection drops, and nothing is server-side
here that could be stranded. What we change of FastStream, and what it gains, is in docs/decisions/002; the exact
version is pinned, and tests/runtime/ hold it to what we rely on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

from anyio import Event
from faststream import AckPolicy
from faststream.redis import RedisBroker, RedisClusterBroker, StreamSub
from faststream.redis.subscriber.usecases.basic import LogicSubscriber
from faststream.redis.subscriber.usecases.stream_subscriber import StreamBatchSubscriber
from redis.exceptions import RedisError

from orchestrator.runtime.cluster import is_cluster, plain
from orchestrator.runtime.connection import Entry, keep_alive, pause_s, wire
from orchestrator.runtime.wire import Exchange

logger = logging.getLogger(__name__)

Read = Callable[[str], Awaitable[list[Entry]]]
"""The next entries after an id; none when none came for a while. Raises RedisError or OSError."""
BATCH = 64
BLOCK_MS = 4_000


class _CursorSub(StreamSub):
    """The stock class deep-copies itself for every message to add a prefix that we do not use."""

    __slots__ = ()

    def add_prefix(self, prefix: str) -> "_CursorSub":
        assert not prefix, "orch names its streams in full (keys.py)"
        return self


class _CursorSubscriber(StreamBatchSubscriber):
    """Hands a batch straight to the handler: no envelope, no dependency injection, no middleware to pay for.

    It reads for as long as it runs, whatever happens. The stock loop waits 5 s after a lost connection, which is too
    long for a call, and ends with an error that Redis replies, whereupon it is restarted at once, again and again.
    """

    __slots__ = ()

    async def start(self, read: Read) -> None:  # type: ignore[override]
        """Read by that function instead of the shared client (docs/decisions/002)."""
        await LogicSubscriber.start(self, read)

    async def _consume(self, *args: Any, start_signal: Event) -> None:
        start_signal.set()
        failures = 0
        while self.running:
            try:
                await self._get_msgs(*args)
            except (RedisError, OSError) as error:
                if not failures:  # said once, however long it lasts
                    logger.info("cannot read %s (%s), trying until it works", self._stream_sub.name, error)
            except Exception:
                if not failures:
                    logger.exception("reading %s broke, trying until it works", self._stream_sub.name)
            else:
                failures = 0
                continue
            await asyncio.sleep(pause_s(failures))
            failures += 1

    async def _get_msgs(self, read: Read) -> None:  # type: ignore[override]
        entries = await read(self.last_id)
        if entries and self.running:
            self.last_id = entries[-1][0].decode()
            with self.lock:  # stop() waits for the batch in hand
                await self.calls[0].handler(entries)


def broker(url: str, max_connections: int) -> RedisBroker:
    """The broker. Its subscribers read on connections of their own, made as its are: without a socket timeout, for
    which redis-py pays with a task per command under Python 3.11. A peer that is gone without a word is noticed by TCP
    keep-alive.
    """
    kind: type[RedisBroker] = RedisClusterBroker if is_cluster(url) else RedisBroker
    return kind(
        plain(url),
        apply_types=False,
        serializer=cast("Any", None),  # a model of each handler's arguments, half a millisecond of work, for nothing
        logger=cast("Any", None),
        graceful_timeout=2.0,
        max_connections=max_connections,
        socket_timeout=None,
        **keep_alive(url),
    )


class Subscription:
    """One stream, read in order from a cursor; the handler gets batches."""

    def __init__(
        self,
        owner: RedisBroker,
        stream: str,
        cursor: str,
        handler: Callable[[list[Entry]], Awaitable[None]],
        connected: Callable[[Exchange], Awaitable[None]] | None = None,
    ) -> None:
        """`connected` is asked on each new connection whether the cursor still means what it did (see Wire)."""
        self._subscriber = owner.subscriber(
            stream=_CursorSub(stream, last_id=cursor, batch=True, max_records=BATCH, polling_interval=BLOCK_MS),
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
            persistent=False,
        )
        self._subscriber.__class__ = _CursorSubscriber  # the factory has no place to name a class of one's own
        self._subscriber(handler)
        self._stream = stream
        self._wire = wire(owner.config.connection.client, connected)

    async def start(self) -> None:
        await cast("_CursorSubscriber", self._subscriber).start(self._read)

    async def _read(self, cursor: str) -> list[Entry]:
        read = ("XREAD", "COUNT", BATCH, "BLOCK", BLOCK_MS, "STREAMS", self._stream, cursor)
        (reply,) = await self._wire.call(self._stream, [read])
        if isinstance(reply, Exception):
            raise reply
        if not reply:
            return []
        ((stream, entries),) = reply.items() if isinstance(reply, dict) else reply
        assert stream.decode() == self._stream, "nobody else reads on this connection"
        return [(entry, dict(zip(fields[::2], fields[1::2], strict=True))) for entry, fields in entries]

    async def stop(self) -> None:
        """Wait for the batch in hand, then stop reading."""
        await self._subscriber.stop()
        await self._wire.close()

    @property
    def running(self) -> bool:
        """Whether it reads; one whose reading has ended for any reason at all is of no use any more."""
        return bool(self._subscriber.running) and any(not task.done() for task in self._subscriber.tasks)
