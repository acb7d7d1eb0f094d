"""What is different when Redis is a cluster: each key is on one of several masters, and one of those may be away.

A cluster is named by its URL, redis+cluster://host:port (or rediss+cluster://), any node of it. The keys of a shard are
on one master (keys.py), so commits and appends need nothing from others, and a master that fails takes its own shards
out of service until a replica has replaced it, and no others.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import ClusterDownError, MovedError, ReadOnlyError, RedisClusterException, RedisError
from redis.exceptions import ConnectionError as LostConnectionError

from orchestrator.runtime.wire import Exchange, Wire

logger = logging.getLogger(__name__)

_ELSEWHERE = (MovedError, ClusterDownError, ReadOnlyError, LostConnectionError, OSError)
"""The master that was asked is not, or not any more, the one that has the key."""
LOOK_S = 2.0
"""A node that does not say in this time who has what is left; the next look begins with another one."""


def is_cluster(url: str) -> bool:
    return url.startswith(("redis+cluster://", "rediss+cluster://"))


def plain(url: str) -> str:
    """The URL as redis-py reads it."""
    return url.replace("+cluster", "", 1)


def connect(url: str, **options: Any) -> Redis:
    """A client that has the methods of Redis that orch uses. Raises ValueError for a URL that is none."""
    return cast("Redis", RedisCluster.from_url(plain(url), **options))


async def master(redis: RedisCluster, key: str) -> ClusterNode:
    """The node that has a key, by what is known of the cluster now. Raises RedisError."""
    await _told(redis.initialize())
    node = redis.get_node_from_key(key)
    if node is None:
        raise ClusterDownError(f"no master has {key}")
    return node


async def _told(asking: Awaitable[Any]) -> None:
    """A node has said who has what. Raises ClusterDownError."""
    try:
        async with asyncio.timeout(LOOK_S):
            await asking
    except (RedisError, RedisClusterException, OSError) as error:
        raise ClusterDownError(f"the cluster does not say who has what: {error}") from error


async def by_master(
    redis: RedisCluster, calls: Sequence[tuple[Any, ...]], send: Callable[..., Awaitable[list[Any]]]
) -> list[Any]:
    """The replies to commands of several masters, in the order of the commands; of a master that is away, its error.

    redis-py goes on asking a master that is gone for as long as its errors are among the replies: so we look again.
    """
    groups: dict[str, list[int]] = {}
    for index, call in enumerate(calls):
        groups.setdefault((await master(redis, key_of(call))).name, []).append(index)
    replies: list[Any] = [None] * len(calls)

    async def ask(indices: list[int]) -> None:
        try:
            answers = await send([calls[index] for index in indices])
        except (RedisError, OSError) as error:
            answers = [error] * len(indices)
        for index, answer in zip(indices, answers, strict=True):
            replies[index] = answer

    await asyncio.gather(*(ask(indices) for indices in groups.values()))
    if any(isinstance(reply, _ELSEWHERE) for reply in replies):
        try:
            await _told(redis.nodes_manager.initialize())
        except ClusterDownError as error:
            logger.info("%s", error)  # the next one who fails looks again
    return replies


def key_of(call: tuple[Any, ...]) -> str:
    """The key that a command is about: of a script the first of its keys."""
    return str(call[3] if call[0] == "EVALSHA" else call[1])


async def run_id(redis: RedisCluster, node: ClusterNode) -> str:
    """Of one master. Raises RedisError."""
    return str((await redis.info("server", target_nodes=node))["run_id"])


async def run_ids(redis: RedisCluster) -> Callable[[str], str]:
    """The run id of the master that has a key; empty where that master does not answer."""
    await _told(redis.initialize())
    masters = redis.get_primaries()
    found = await asyncio.gather(*(run_id(redis, node) for node in masters), return_exceptions=True)
    lives = {node.name: life for node, life in zip(masters, found, strict=True) if isinstance(life, str)}

    def of(key: str) -> str:
        node = redis.get_node_from_key(key)
        return lives.get(node.name, "") if node is not None else ""

    return of


class ClusterWire:
    """A Wire to each master; what is about a key goes to the one that has it."""

    def __init__(self, redis: RedisCluster, connected: Callable[[Exchange], Awaitable[None]] | None = None) -> None:
        self._redis = redis
        self._connected = connected
        self._wires: dict[str, Wire] = {}

    async def call(self, key: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """As Wire.call. An error among the replies, or one that is raised, makes us look again who has what."""
        try:
            node = await master(self._redis, key)
            replies = await self._to(node).call(key, commands)
        except (RedisError, OSError):
            await _told(self._redis.nodes_manager.initialize())
            raise
        if any(isinstance(reply, _ELSEWHERE) for reply in replies):
            await _told(self._redis.nodes_manager.initialize())
        return replies

    def _to(self, node: ClusterNode) -> Wire:
        if node.name not in self._wires:
            self._wires[node.name] = Wire(lambda: node.connection_class(**node.connection_kwargs), self._connected)
        return self._wires[node.name]

    async def close(self) -> None:
        await asyncio.gather(*(wire.close() for wire in self._wires.values()))
