"""FastStream subscribers in cursor mode: plain XREAD from a cursor that orch's commits move.

There is no consumer group: a group leaves entries pending when a process stops or a connection drops, while a cursor
has no such state on the server. docs/decisions/002 lists the changes to FastStream and the reasons. The exact version
is pinned, and tests/runtime/ check the behaviour that orch relies on.
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

from orchestrator.runtime.redis.cluster import is_cluster, plain
from orchestrator.runtime.redis.connection import Entry, keep_alive, pause_s, wire
from orchestrator.runtime.redis.wire import Exchange
from orchestrator.teardown import end_within

logger = logging.getLogger(__name__)

Read = Callable[[str], Awaitable[list[Entry]]]
"""Reads the next entries after an id; empty after BLOCK_MS without any. Raises RedisError or OSError."""
BATCH = 64
BLOCK_MS = 4_000
STOP_S = 10.0
"""How long stop() waits for the current batch; longer than any wait for Redis."""


class _CursorSub(StreamSub):
    """A StreamSub without prefixes. FastStream's class deep-copies itself for every message to add a prefix."""

    __slots__ = ()

    def add_prefix(self, prefix: str) -> "_CursorSub":
        assert not prefix, "orch names its streams in full (keys.py)"
        return self


class _CursorSubscriber(StreamBatchSubscriber):
    """Passes a batch directly to the handler, without the cost of envelope, dependency injection and middleware.

    It reads until it is stopped and retries after every error, with backoff. FastStream's own loop waits 5 s after a
    lost connection, too long for a call. When Redis replies with an error, that loop ends and is restarted at once,
    again and again.
    """

    __slots__ = ()

    async def start(self, read: Read) -> None:  # type: ignore[override]
        """Start the subscription. It reads through `read`, on a connection of its own, not through the broker's Redis
        client (docs/decisions/002).
        """
        await LogicSubscriber.start(self, read)

    async def _consume(self, *args: Any, start_signal: Event) -> None:
        start_signal.set()
        failures = 0
        while self.running:
            try:
                await self._get_msgs(*args)
            except (RedisError, OSError) as error:
                if not failures:  # logged once per outage
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
            with self.lock:  # stop() waits for the current batch
                await self.calls[0].handler(entries)


def broker(url: str, max_connections: int) -> RedisBroker:
    """Make the FastStream broker. Each of its subscribers reads on a connection of its own, with the same options.

    The connections have no socket timeout: on Python 3.11 it costs redis-py a task per command. TCP keep-alive
    detects a server that is gone.
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
    """Reads one stream in order from a cursor, and passes batches of entries to a handler."""

    def __init__(
        self,
        owner: RedisBroker,
        stream: str,
        cursor: str,
        handler: Callable[[list[Entry]], Awaitable[None]],
        connected: Callable[[Exchange], Awaitable[None]] | None = None,
    ) -> None:
        """`connected` is awaited on each new connection, to check that the cursor is still valid (see Wire)."""
        self._subscriber = owner.subscriber(
            stream=_CursorSub(stream, last_id=cursor, batch=True, max_records=BATCH, polling_interval=BLOCK_MS),
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
            persistent=False,
        )
        self._subscriber.__class__ = _CursorSubscriber  # the factory takes no class of its caller's
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
        """Stop reading; waits up to STOP_S seconds for the current batch. What a batch that takes longer still commits
        after the lease was released, Redis refuses.
        """
        await end_within(f"the reader of {self._stream}", self._subscriber.stop(), within_s=STOP_S)
        await self._wire.close()

    @property
    def running(self) -> bool:
        """Whether the subscription still reads. If it has ended, for any reason, it must be replaced by a new one."""
        return bool(self._subscriber.running) and any(not task.done() for task in self._subscriber.tasks)
