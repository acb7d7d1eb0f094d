"""FastStream subscribers that read a stream with plain XREAD, from a cursor: the id of the last entry that was read.

No consumer group is used: it would leave entries pending on the server when a process stops or a connection drops.
docs/decisions/002 lists the changes to FastStream and the reasons. The exact version is pinned, and tests/runtime/
check the behaviour that orch relies on.
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
"""Reads the next entries after an id; returns none if none come within BLOCK_MS ms. Raises RedisError or OSError."""
BATCH = 64
BLOCK_MS = 4_000
STOP_S = 10.0
"""How long stop() waits for the current batch, in seconds; longer than any wait for Redis."""


class _CursorSub(StreamSub):
    """A StreamSub that is never copied. FastStream's class makes a deep copy to add a prefix to the stream's name, even
    an empty prefix; orch uses no prefixes.
    """

    __slots__ = ()

    def add_prefix(self, prefix: str) -> "_CursorSub":
        assert not prefix, "orch names its streams in full (keys.py)"
        return self


class _CursorSubscriber(StreamBatchSubscriber):
    """Passes a batch directly to the handler function, without the cost of envelope, dependency injection and
    middleware.

    It reads until it is stopped, and retries after every error, with backoff. FastStream's own loop waits 5 s after a
    lost connection, too long for a conversation. When Redis replies with an error, FastStream's loop ends and is
    restarted at once, again and again.
    """

    __slots__ = ()

    async def start(self, read: Read) -> None:  # type: ignore[override]
        """Start reading in the background. The subscriber calls `read` again and again with the id of the last entry;
        `read` returns the next entries. `read` has a separate connection, not the broker's client (docs/decisions/002).
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
    """Make the FastStream broker, with a Redis client of its own. Each subscriber reads on a separate connection, with
    the options of that client. These connections do not count towards `max_connections`.

    The connections have no socket timeout: on Python 3.11, a timeout costs redis-py a task per command. TCP keep-alive
    detects a server that is gone.
    """
    kind: type[RedisBroker] = RedisClusterBroker if is_cluster(url) else RedisBroker
    return kind(
        plain(url),
        apply_types=False,
        serializer=cast("Any", None),  # else FastStream builds a model of the handler, 0.5 ms for nothing
        logger=cast("Any", None),
        graceful_timeout=2.0,
        max_connections=max_connections,
        socket_timeout=None,
        **keep_alive(url),
    )


class Subscription:
    """Reads one stream in order from a cursor, and passes batches of entries to a handler function."""

    def __init__(
        self,
        owner: RedisBroker,
        stream: str,
        cursor: str,
        handler: Callable[[list[Entry]], Awaitable[None]],
        connected: Callable[[Exchange], Awaitable[None]] | None = None,
    ) -> None:
        """`cursor`: the entry id after which to read. `connected` is awaited on each new connection before anything is
        read; its argument is an Exchange, a function that sends commands on that connection.

        `connected` can check that the stream still continues at the cursor: Redis may have lost entries in a restart or
        failover. If `connected` raises, nothing is read, and reading is retried with backoff.
        """
        self._subscriber = owner.subscriber(
            stream=_CursorSub(stream, last_id=cursor, batch=True, max_records=BATCH, polling_interval=BLOCK_MS),
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
            persistent=False,
        )
        self._subscriber.__class__ = _CursorSubscriber  # FastStream cannot be told to make this class
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
        """Stop reading; waits up to STOP_S seconds for the current batch. A batch that takes longer does no harm: Redis
        refuses its commits once the lease is released.
        """
        await end_within(f"the reader of {self._stream}", self._subscriber.stop(), within_s=STOP_S)
        await self._wire.close()

    @property
    def running(self) -> bool:
        """Whether the subscription still reads. If it has ended, for any reason, a new Subscription must replace it."""
        return bool(self._subscriber.running) and any(not task.done() for task in self._subscriber.tasks)
