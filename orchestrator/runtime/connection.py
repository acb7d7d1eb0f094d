"""Connections to Redis that never repeat a command by themselves, and the scripts."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import cache, partial
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import EqualJitterBackoff, NoBackoff
from redis.exceptions import NoScriptError

from orchestrator.runtime import cluster
from orchestrator.runtime.cluster import ClusterWire
from orchestrator.runtime.wire import TIMEOUT_S, Exchange, Wire

logger = logging.getLogger(__name__)

Entry = tuple[bytes, dict[bytes, bytes]]
"""Of a stream: its id and its fields, as Redis has them."""
_BACKOFF = EqualJitterBackoff(cap=0.5, base=0.05)


def pause_s(failures: int) -> float:
    """How long to wait before a Redis that has failed so often in a row is asked again: soon at first, then twice or
    thrice a second, each of the many who ask at a moment of its own.
    """
    return _BACKOFF.compute(min(failures, 10))


def connect(url: str, max_connections: int = 64) -> "Redis":
    """A client for everything but reading streams. redis-py re-sends silently otherwise: one XADD call, two entries."""
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "max_connections": max_connections,
        "socket_timeout": None,  # redis-py 8 on Python 3.11 makes a task per reply for it, which swallows cancellations
        **keep_alive(url),
    }
    return cluster.connect(url, **options) if cluster.is_cluster(url) else Redis.from_url(url, **options)


def wire(redis: "Redis", connected: Callable[[Exchange], Awaitable[None]] | None = None) -> Wire | ClusterWire:
    """A plain connection for the path that every event takes; see Wire."""
    if isinstance(redis, RedisCluster):
        return ClusterWire(redis, connected)
    return Wire(redis.connection_pool.make_connection, connected)


def keep_alive(url: str) -> dict[str, Any]:
    """So that TCP notices within some ten seconds that the server is gone without a word; its default is two hours."""
    if url.startswith("unix:"):
        return {}
    probes = {socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 3}
    if hasattr(socket, "TCP_KEEPIDLE"):  # macOS names it otherwise
        probes[socket.TCP_KEEPIDLE] = 5
    return {"socket_keepalive": True, "socket_keepalive_options": probes}


@cache
def source(name: str) -> str:
    """The text of a script in runtime/lua/."""
    return files("orchestrator.runtime").joinpath("lua", f"{name}.lua").read_text()


@cache
def sha(name: str) -> str:
    """Its digest, by which the server knows it once it has seen it."""
    return sha1(source(name).encode(), usedforsecurity=False).hexdigest()


def evalsha(name: str, keys: list[str], args: list[Any]) -> tuple[Any, ...]:
    """The command that runs a script."""
    return ("EVALSHA", sha(name), len(keys), *keys, *args)


async def run_all(redis: "Redis", calls: list[tuple[Any, ...]]) -> list[Any]:
    """Run commands in one round trip; a server that was restarted is taught the scripts again.

    Errors of some are among the replies, as values. Raises RedisError or TimeoutError where all failed.
    """
    for _ in range(2):
        if isinstance(redis, RedisCluster):
            replies = await cluster.by_master(redis, calls, partial(_pipeline, redis))
        else:
            replies = await _pipeline(redis, calls)
        if not any(isinstance(reply, NoScriptError) for reply in replies):
            break
        await load_scripts(redis)
    if replies and all(isinstance(reply, Exception) for reply in replies):
        raise replies[0]
    return replies


async def ask(redis: "Redis", calls: list[tuple[Any, ...]]) -> list[Any]:
    """As run_all, where each answer is needed: raises RedisError or TimeoutError where one failed."""
    replies = await run_all(redis, calls)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def _pipeline(redis: "Redis", calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    pipeline = redis.pipeline(transaction=False)
    for call in calls:
        pipeline.execute_command(*call)
    async with asyncio.timeout(TIMEOUT_S):
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
    return replies


async def load_scripts(redis: "Redis") -> None:
    """Teach the server all scripts; of a cluster each master that is there. Raises RedisError."""
    for script in files("orchestrator.runtime").joinpath("lua").iterdir():
        if not isinstance(redis, RedisCluster):
            await redis.script_load(script.read_text())
            continue
        await redis.initialize()
        masters = [
            redis.execute_command("SCRIPT LOAD", script.read_text(), target_nodes=one) for one in redis.get_primaries()
        ]
        outcomes = await asyncio.gather(*masters, return_exceptions=True)
        if failed := [outcome for outcome in outcomes if isinstance(outcome, Exception)]:
            logger.warning("a master of the cluster does not answer: %s", failed[0])


async def run_id(redis: "Redis", key: str) -> str:
    """Names the life of the server process that has a key: another id is another life, and writes may be lost.

    Raises RedisError or TimeoutError.
    """
    async with asyncio.timeout(TIMEOUT_S):
        if isinstance(redis, RedisCluster):
            return await cluster.run_id(redis, await cluster.master(redis, key))
        return str((await redis.info("server"))["run_id"])


async def run_ids(redis: "Redis") -> Callable[[str], str]:
    """As run_id for any key, asked once; empty for a key of a master that does not answer. Raises as run_id."""
    async with asyncio.timeout(TIMEOUT_S):
        if isinstance(redis, RedisCluster):
            return await cluster.run_ids(redis)
    server = await run_id(redis, "")
    return lambda _: server
