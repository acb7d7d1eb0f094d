"""Commands about leases and members. In a Redis Cluster, each master has a quarter of a lease to reply.

Otherwise a master that hangs would cost the leases on all others: they expire while a node waits for its reply.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from orchestrator.runtime.redis import cluster, connection

PART = 4
"""A master has a lease duration / PART to reply. Renewals start twice per lease duration: a renewal that waits for this
long, and for the slot table, is over before the next.
"""


def limit_s(lease_ms: int) -> float:
    """How long, in seconds, a master of a cluster may take to reply."""
    return lease_ms / 1_000 / PART


async def run_all(redis: Redis, calls: list[tuple[Any, ...]], lease_ms: int) -> list[Any]:
    """Run commands (connection.run_all). In a cluster, the reply of a late master is an error for each of its commands;
    Redis may still carry them out. Raises RedisError or OSError if all commands failed.
    """
    if not isinstance(redis, RedisCluster):
        return await connection.run_all(redis, calls)
    send = partial(connection.run_all, redis)
    replies = await cluster.by_master(redis, calls, send, within_s=limit_s(lease_ms))
    if replies and all(isinstance(reply, Exception) for reply in replies):
        raise replies[0]
    return replies


async def run_ids(redis: Redis, lease_ms: int) -> Callable[[str], str]:
    """Read the run ids of all servers. Returns a function: key → run id of the key's server; empty for a late master.
    Raises RedisError.
    """
    if not isinstance(redis, RedisCluster):
        server = await connection.run_id(redis, "")
        return lambda _: server
    return await cluster.run_ids(redis, within_s=limit_s(lease_ms))
