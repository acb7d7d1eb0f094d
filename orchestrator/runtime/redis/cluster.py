"""Support for Redis Cluster: sends each command to the master of its key; a failed master stops only its own shards.

The URL redis+cluster://host:port (or rediss+cluster://) names any node of the cluster. All keys of a shard are on one
master (keys.py), so commits and appends use one master each. When a master fails, its shards are out of service until a
replica replaces the master.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import (
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    SlotNotCoveredError,
)
from redis.exceptions import ConnectionError as LostConnectionError

from orchestrator.runtime.redis.wire import Exchange, RedisTimeoutError, Wire, in_time

logger = logging.getLogger(__name__)

_ELSEWHERE = (MovedError, ClusterDownError, ReadOnlyError, LostConnectionError, OSError)
"""Errors after which the slot table (which master has which keys) is read again: the key may be on another master by
now.
"""
LOOK_S = 2.0
"""Timeout, in seconds, for reading the slot table from a node. The next attempt begins with another node."""


def is_cluster(url: str) -> bool:
    return url.startswith(("redis+cluster://", "rediss+cluster://"))


def plain(url: str) -> str:
    """Return the URL without `+cluster`, as redis-py reads it."""
    return url.replace("+cluster", "", 1)


def connect(url: str, **options: Any) -> Redis:
    """Make a cluster client; it has all methods of Redis that orch uses. Raises ValueError for an invalid URL."""
    return cast("Redis", ClusterClient.from_url(plain(url), **options))


class ClusterClient(RedisCluster):
    """A client whose errors are all RedisErrors, and whose commands take at most about TIMEOUT_S.

    If redis-py finds no node that answers, it raises RedisClusterException, which is not a RedisError: a loop that
    retries after every RedisError would end. This class raises ClusterDownError instead.
    """

    async def initialize(self, *args: Any, **options: Any) -> "ClusterClient":
        """Read the slot table if it is not known; redis-py calls this itself. Raises ClusterDownError if that fails."""
        await _told(super().initialize(*args, **options))
        return self

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return await self._limited(super().execute_command(*args, **options))

    async def _execute_pipeline_by_slot(self, command: str, slots_to_args: Any) -> list[Any]:  # type: ignore[override]
        """Send EXISTS or DEL: redis-py sends these two commands by this method, not by execute_command."""
        return cast("list[Any]", await self._limited(super()._execute_pipeline_by_slot(command, slots_to_args)))

    async def _limited(self, sending: Awaitable[Any]) -> Any:
        """Wait for `sending`, in which redis-py sends commands and reads the replies, and return its result. If a
        master does not answer within TIMEOUT_S, reads the slot table again, since redis-py would keep asking that
        master. Raises RedisError if the call fails or takes too long.
        """
        try:
            async with in_time():
                return await sending
        except RedisClusterException as error:
            raise ClusterDownError(str(error)) from error
        except RedisTimeoutError:
            await _learn_again(self)
            raise


async def master(redis: RedisCluster, key: str) -> ClusterNode:
    """Return the master that has a key, from redis-py's present copy of the slot table. Raises ClusterDownError if the
    table cannot be read, or if no master has the key.
    """
    await learn(redis)
    node = _known_master(redis, key)
    if node is None:
        raise ClusterDownError(f"no master has {key}")
    return node


def _known_master(redis: RedisCluster, key: str) -> ClusterNode | None:
    """Return the master that has a key; None: no master has it."""
    try:
        return redis.get_node_from_key(key)
    except SlotNotCoveredError:
        return None


async def learn(redis: RedisCluster) -> None:
    """Read the slot table of the cluster if it is not known. Raises ClusterDownError if the table cannot be read."""
    await _told(redis.initialize())


async def _told(asking: Awaitable[Any], within_s: float = LOOK_S) -> None:
    """Wait until redis-py has read the slot table, at most `within_s`. Raises ClusterDownError for every failure."""
    try:
        async with asyncio.timeout(within_s):
            await asking
    except ClusterDownError:  # from ClusterClient.initialize, with its message
        raise
    except (RedisError, RedisClusterException, OSError) as error:
        reason = str(error) or "it does not answer in time"
        raise ClusterDownError(f"the cluster does not say who has what: {reason}") from error


async def by_master(
    redis: RedisCluster,
    calls: Sequence[tuple[Any, ...]],
    send: Callable[..., Awaitable[list[Any]]],
    within_s: float | None = None,
) -> list[Any]:
    """Send each command to the master of its key, and return the replies in the order of the commands.

    `send` sends the commands for one master, and returns their replies. If a master does not answer (`within_s` seconds
    if given), the reply to each of its commands is the error. After such an error, or a reply that a key has moved,
    reads the slot table again: redis-py would keep asking the old master. Raises ClusterDownError if the master of a
    key is not known.
    """
    groups: dict[str, list[int]] = {}
    for index, call in enumerate(calls):
        groups.setdefault((await master(redis, key_of(call))).name, []).append(index)
    replies: list[Any] = [None] * len(calls)
    silent: str | None = None

    async def ask(name: str, indices: list[int]) -> None:
        nonlocal silent
        try:
            async with asyncio.timeout(within_s):
                answers = await send([calls[index] for index in indices])
        except (RedisError, OSError) as error:
            silent = name
            is_late = isinstance(error, TimeoutError) and not str(error)
            late = RedisTimeoutError(f"the master {name} does not answer within {within_s} s")
            answers = [late if is_late else error] * len(indices)
        for index, answer in zip(indices, answers, strict=True):
            replies[index] = answer

    await asyncio.gather(*(ask(name, indices) for name, indices in groups.items()))
    if any(isinstance(reply, _ELSEWHERE) for reply in replies):
        await _learn_again(redis, min(LOOK_S, within_s or LOOK_S), silent)
    return replies


async def _learn_again(redis: RedisCluster, within_s: float = LOOK_S, silent: str | None = None) -> None:
    """Read the slot table again, after a reply or an error that says that the table is out of date. A failure is only
    logged: the replies of other masters are still valid, and the next failed command reads the table again.

    `silent`: name of a node that does not answer, which is asked last.
    """
    try:
        await _told(redis.nodes_manager.initialize(last_failed_node_name=silent), within_s)
    except ClusterDownError as error:
        logger.info("%s", error)


def key_of(call: tuple[Any, ...]) -> str:
    """Return the key that decides which master gets a command. For a script, it is the first of the script's keys."""
    return str(call[3] if call[0] == "EVALSHA" else call[1])


async def run_id(redis: RedisCluster, node: ClusterNode) -> str:
    """Read the run id of one master; Redis makes a new run id at each start. Raises RedisError."""
    return str((await redis.info("server", target_nodes=node))["run_id"])


async def run_ids(redis: RedisCluster, within_s: float) -> Callable[[str], str]:
    """Read the run ids of all masters. Returns a function: key → run id of the key's master; empty if that master does
    not answer within `within_s` seconds. Raises ClusterDownError if the slot table cannot be read.
    """

    async def ask(node: ClusterNode) -> str:
        async with asyncio.timeout(within_s):
            return await run_id(redis, node)

    await learn(redis)
    masters = redis.get_primaries()
    found = await asyncio.gather(*map(ask, masters), return_exceptions=True)
    lives = {node.name: life for node, life in zip(masters, found, strict=True) if isinstance(life, str)}

    def of(key: str) -> str:
        node = _known_master(redis, key)
        return lives.get(node.name, "") if node is not None else ""

    return of


class ClusterWire:
    """One bare connection (Wire) per master of a cluster. Each command goes to the master of its key."""

    def __init__(self, redis: RedisCluster, connected: Callable[[Exchange], Awaitable[None]] | None = None) -> None:
        self._redis = redis
        self._connected = connected
        self._wires: dict[str, Wire] = {}
        self._calls = 0
        """Number of calls that are over."""
        self._last: dict[str, tuple[str, int]] = {}
        """Key → the master of its last call, and the number of calls over when that call was over."""
        self._since: dict[str, int] = {}
        """Master → the number of calls over when the connection to it was made."""

    async def call(self, key: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands once to the master of `key`, and return their replies. If a command fails, for example because
        the key has moved, its reply is the error. Raises RedisError or OSError if the connection fails or no master is
        found. After a moved key or a failed connection, reads the slot table again: the next call finds the right
        master.
        """
        try:
            node = await master(self._redis, key)
            await self._renew(key, node)
            try:
                replies = await self._to(node).call(key, commands)
            finally:
                self._calls += 1
                self._last[key] = (node.name, self._calls)
        except (RedisError, OSError):
            await _learn_again(self._redis)
            raise
        if any(isinstance(reply, _ELSEWHERE) for reply in replies):
            await _learn_again(self._redis)
        return replies

    async def _renew(self, key: str, node: ClusterNode) -> None:
        """Close an old connection to a master to which a key has moved, so that `connected` is awaited after the move.
        The master may have been a replica in between, or another one, which had lost writes, has sent it the key.
        """
        before, number = self._last.get(key, (node.name, 0))
        if self._connected is not None and before != node.name and self._since.get(node.name, 0) < number:
            await self._to(node).reconnect()

    def _to(self, node: ClusterNode) -> Wire:
        if node.name not in self._wires:
            connected = partial(self._compare, node.name) if self._connected is not None else None
            self._wires[node.name] = Wire(lambda: node.connection_class(**node.connection_kwargs), connected)
        return self._wires[node.name]

    async def _compare(self, name: str, exchange: Exchange) -> None:
        number = self._calls
        assert self._connected is not None, "a wire without it has no callback"
        await self._connected(exchange)
        self._since[name] = number

    async def close(self) -> None:
        await asyncio.gather(*(wire.close() for wire in self._wires.values()))
