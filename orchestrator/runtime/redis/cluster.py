"""Support for Redis Cluster: sends each command to the master of its key; a failed master stops only its own shards.

The URL redis+cluster://host:port (or rediss+cluster://) names any node of the cluster. All keys of a shard are on one
master (keys.py), so commits and appends use one master each. When a master fails, its shards are out of service until a
replica replaces it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import ClusterDownError, MovedError, ReadOnlyError, RedisClusterException, RedisError
from redis.exceptions import ConnectionError as LostConnectionError

from orchestrator.runtime.redis.wire import Exchange, Wire

logger = logging.getLogger(__name__)

_ELSEWHERE = (MovedError, ClusterDownError, ReadOnlyError, LostConnectionError, OSError)
"""Errors which show that the master that was asked does not have the key, or has it no longer."""
LOOK_S = 2.0
"""Timeout for reading the slot table from a node. The next attempt begins with another node."""


def is_cluster(url: str) -> bool:
    return url.startswith(("redis+cluster://", "rediss+cluster://"))


def plain(url: str) -> str:
    """Return the URL without `+cluster`, as redis-py reads it."""
    return url.replace("+cluster", "", 1)


def connect(url: str, **options: Any) -> Redis:
    """Make a cluster client; it has all methods of Redis that orch uses. Raises ValueError for an invalid URL."""
    return cast("Redis", RedisCluster.from_url(plain(url), **options))


async def master(redis: RedisCluster, key: str) -> ClusterNode:
    """Return the master that has a key, by redis-py's present copy of the slot table. Raises RedisError."""
    await _told(redis.initialize())
    node = redis.get_node_from_key(key)
    if node is None:
        raise ClusterDownError(f"no master has {key}")
    return node


async def _told(asking: Awaitable[Any]) -> None:
    """Wait at most LOOK_S until redis-py has read the slot table. Raises ClusterDownError for every failure."""
    try:
        async with asyncio.timeout(LOOK_S):
            await asking
    except (RedisError, RedisClusterException, OSError) as error:
        reason = str(error) or "it does not answer in time"
        raise ClusterDownError(f"the cluster does not say who has what: {reason}") from error


async def by_master(
    redis: RedisCluster, calls: Sequence[tuple[Any, ...]], send: Callable[..., Awaitable[list[Any]]]
) -> list[Any]:
    """Send each command to the master of its key, and return the replies in the order of the commands.

    `send` sends the commands for one master. If a master does not answer, each of its commands gets the error as its
    reply. The slot table is read again then, since redis-py would keep asking the failed master.
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
            logger.info("%s", error)  # the next failed command reads it again
    return replies


def key_of(call: tuple[Any, ...]) -> str:
    """Return the key that decides which master gets a command. For a script, it is the first of the script's keys."""
    return str(call[3] if call[0] == "EVALSHA" else call[1])


async def run_id(redis: RedisCluster, node: ClusterNode) -> str:
    """Read the run id of one master: Redis makes a new one at each start. Raises RedisError."""
    return str((await redis.info("server", target_nodes=node))["run_id"])


async def run_ids(redis: RedisCluster) -> Callable[[str], str]:
    """Read the run ids of all masters. Returns a function: key → run id of the key's master; empty if that master does
    not answer. Raises ClusterDownError.
    """
    await _told(redis.initialize())
    masters = redis.get_primaries()
    found = await asyncio.gather(*(run_id(redis, node) for node in masters), return_exceptions=True)
    lives = {node.name: life for node, life in zip(masters, found, strict=True) if isinstance(life, str)}

    def of(key: str) -> str:
        node = redis.get_node_from_key(key)
        return lives.get(node.name, "") if node is not None else ""

    return of


class ClusterWire:
    """One bare connection (Wire) per master of a cluster. Commands go to the master of their key."""

    def __init__(self, redis: RedisCluster, connected: Callable[[Exchange], Awaitable[None]] | None = None) -> None:
        self._redis = redis
        self._connected = connected
        self._wires: dict[str, Wire] = {}

    async def call(self, key: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands to the master of `key` and return their replies, as Wire.call does. If the connection fails or
        a reply shows that the key has moved, read the slot table again for the next call.
        """
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
