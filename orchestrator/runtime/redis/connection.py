"""Connections to Redis that never retry a command by themselves, and the Lua scripts."""

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import cache, partial
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import EqualJitterBackoff, NoBackoff
from redis.exceptions import NoScriptError, RedisError

from orchestrator.runtime.redis import cluster
from orchestrator.runtime.redis.cluster import ClusterWire
from orchestrator.runtime.redis.wire import TIMEOUT_S, Exchange, Wire, in_time

logger = logging.getLogger(__name__)

Entry = tuple[bytes, dict[bytes, bytes]]
"""A stream entry: its id and its fields, as bytes."""
_BACKOFF = EqualJitterBackoff(cap=0.5, base=0.05)


class RedisUrlError(RedisError):
    """The URL of Redis cannot be used; the message never quotes the URL."""


class RedisClient(Redis):
    """A client whose commands take at most TIMEOUT_S each. Otherwise, a broken network could block them for minutes."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async with in_time():
            return await super().execute_command(*args, **options)


def pause_s(failures: int) -> float:
    """Backoff in seconds after `failures` failures in a row: short at first, then two or three retries a second. The
    backoff has jitter, so that clients do not retry at the same moment.
    """
    return _BACKOFF.compute(min(failures, 10))


def connect(url: str, max_connections: int = 64, *, waits: bool = False) -> "Redis":
    """Make a client that never retries, and whose commands take at most TIMEOUT_S each. The automatic retries of
    redis-py are off, because they could append one event twice. Raises RedisUrlError if the URL cannot be used.

    If all `max_connections` are in use, a command fails; with `waits`, the command first waits for a free connection.
    In a cluster, `waits` is ignored, and `max_connections` is the limit for each server.
    """
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "max_connections": max_connections,
        "socket_timeout": None,  # redis-py 8 on Python 3.11 makes a task per reply for it, which swallows cancellations
        **keep_alive(url),
    }
    try:
        if cluster.is_cluster(url):
            client = cluster.connect(url, **options)
        elif waits:
            client = RedisClient.from_pool(BlockingConnectionPool.from_url(url, timeout=TIMEOUT_S, **options))
        else:
            client = RedisClient.from_url(url, **options)
        if not isinstance(client, RedisCluster):
            client.connection_pool.make_connection()  # opens no connection, but raises for an unknown option
            if client.connection_pool.connection_kwargs.get("decode_responses"):
                raise RedisUrlError("the URL of Redis is wrong: leave out decode_responses, events are bytes")
    except (TypeError, ValueError) as error:  # its message may quote a password
        option = re.search(r"unexpected keyword argument '(\w+)'|Invalid value for '(\w+)'", str(error))
        name = option and (option[1] or option[2])
        what = f"its option {name!r}" if name else "it"
        raise RedisUrlError(f"the URL of Redis is wrong: {what} cannot be understood") from None
    return client


def wire(redis: "Redis", connected: Callable[[Exchange], Awaitable[None]] | None = None) -> Wire | ClusterWire:
    """Make a bare connection (Wire) with the options of a client. It has less overhead than the client, which matters
    because every event takes this path.

    `connected` is awaited on each new connection (see Wire).
    """
    if isinstance(redis, RedisCluster):
        return ClusterWire(redis, connected)
    return Wire(redis.connection_pool.make_connection, connected)


def keep_alive(url: str) -> dict[str, Any]:
    """Return connection options with which TCP notices within about ten seconds that the server is gone; by default,
    only after two hours. A Unix socket needs no such options.
    """
    if url.startswith("unix:"):
        return {}
    probes = {socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 3}
    if hasattr(socket, "TCP_KEEPIDLE"):  # macOS has another name for it, and keeps its default of two hours
        probes[socket.TCP_KEEPIDLE] = 5
    return {"socket_keepalive": True, "socket_keepalive_options": probes}


@cache
def source(name: str) -> str:
    """Return the text of a script in runtime/redis/lua/."""
    return files("orchestrator.runtime.redis").joinpath("lua", f"{name}.lua").read_text()


@cache
def sha(name: str) -> str:
    """Return the SHA-1 digest of a script. Redis runs a loaded script by this digest."""
    return sha1(source(name).encode(), usedforsecurity=False).hexdigest()


def evalsha(name: str, keys: list[str], args: list[Any]) -> tuple[Any, ...]:
    """Build the Redis command that runs a Lua script of this package by its name."""
    return ("EVALSHA", sha(name), len(keys), *keys, *args)


async def run_all(redis: "Redis", calls: list[tuple[Any, ...]]) -> list[Any]:
    """Run commands in one round trip, and return a reply for each; loads the scripts again if Redis has lost them.

    If a command fails, its reply is the error. Raises RedisError or OSError if all commands failed.
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
    """Run commands in one round trip, and return their replies. Raises RedisError or OSError if any command failed."""
    replies = await run_all(redis, calls)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def _pipeline(redis: "Redis", calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    pipeline = redis.pipeline(transaction=False)
    for call in calls:
        pipeline.execute_command(*call)
    async with in_time():
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
    return replies


async def load_scripts(redis: "Redis") -> None:
    """Load all Lua scripts into the server; in a cluster, into each master. Raises RedisError if the server, or the
    whole cluster, does not answer.

    A single master that does not answer is skipped, with a warning. When it later reports a missing script, the scripts
    are loaded again (`run_all`, commit.py).
    """
    for script in files("orchestrator.runtime.redis").joinpath("lua").iterdir():
        if not isinstance(redis, RedisCluster):
            await redis.script_load(script.read_text())
            continue
        await cluster.learn(redis)
        loads = [
            redis.execute_command("SCRIPT LOAD", script.read_text(), target_nodes=one) for one in redis.get_primaries()
        ]
        outcomes = await asyncio.gather(*loads, return_exceptions=True)
        if failed := [outcome for outcome in outcomes if isinstance(outcome, Exception)]:
            logger.warning("a master of the cluster does not answer: %s", failed[0])


async def run_id(redis: "Redis", key: str) -> str:
    """Read the run id of the server that has a key. Redis makes a new run id at each start; a restart may lose writes.

    Raises RedisError.
    """
    if isinstance(redis, RedisCluster):
        return await cluster.run_id(redis, await cluster.master(redis, key))
    return str((await redis.info("server"))["run_id"])
