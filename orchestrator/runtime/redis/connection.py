"""Connections to Redis that never retry a command by themselves, and the Lua scripts."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
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
from orchestrator.runtime.redis.wire import TIMEOUT_S, Exchange, Wire, in_words

logger = logging.getLogger(__name__)

Entry = tuple[bytes, dict[bytes, bytes]]
"""A stream entry: its id and its fields, as bytes."""
_BACKOFF = EqualJitterBackoff(cap=0.5, base=0.05)


class RedisUrlError(RedisError):
    """The URL of Redis cannot be used; the message never quotes it."""


def pause_s(failures: int) -> float:
    """Backoff in seconds after `failures` failures in a row: short at first, then two or three retries a second. It has
    jitter, so that clients do not retry at the same moment.
    """
    return _BACKOFF.compute(min(failures, 10))


def connect(url: str, max_connections: int = 64, *, waits: bool = False) -> "Redis":
    """Make a client for every use except reading streams. It never retries: by default redis-py re-sends silently, and
    one XADD call may add two entries. Raises RedisUrlError.

    A command beyond `max_connections` at once fails; `waits`: it waits for its turn, up to TIMEOUT_S (not in a
    cluster).
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
            client = Redis.from_pool(BlockingConnectionPool.from_url(url, timeout=TIMEOUT_S, **options))
        else:
            client = Redis.from_url(url, **options)
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
    """Make a bare connection with the options of a client but without its overhead, for the path of every event.

    `connected` is awaited on each new connection (see Wire).
    """
    if isinstance(redis, RedisCluster):
        return ClusterWire(redis, connected)
    return Wire(redis.connection_pool.make_connection, connected)


def keep_alive(url: str) -> dict[str, Any]:
    """Return connection options with which TCP notices within about ten seconds that the server is gone. By default it
    takes two hours.
    """
    if url.startswith("unix:"):
        return {}
    probes = {socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 3}
    if hasattr(socket, "TCP_KEEPIDLE"):  # macOS has another name for it
        probes[socket.TCP_KEEPIDLE] = 5
    return {"socket_keepalive": True, "socket_keepalive_options": probes}


@cache
def source(name: str) -> str:
    """The text of a script in runtime/redis/lua/."""
    return files("orchestrator.runtime.redis").joinpath("lua", f"{name}.lua").read_text()


@cache
def sha(name: str) -> str:
    """Return the SHA-1 digest of a script. Redis runs a loaded script by its digest."""
    return sha1(source(name).encode(), usedforsecurity=False).hexdigest()


def evalsha(name: str, keys: list[str], args: list[Any]) -> tuple[Any, ...]:
    """Build the Redis command that runs a Lua script of this package by its name."""
    return ("EVALSHA", sha(name), len(keys), *keys, *args)


async def run_all(redis: "Redis", calls: list[tuple[Any, ...]]) -> list[Any]:
    """Run commands in one round trip, and return one reply for each; loads the scripts again if Redis has lost them.

    If a command fails, its reply is the error. Raises RedisError or TimeoutError if all commands failed.
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
    """Run commands in one round trip, and return their replies. Raises RedisError or TimeoutError if any failed."""
    replies = await run_all(redis, calls)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise in_words(error) from None


async def _pipeline(redis: "Redis", calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    pipeline = redis.pipeline(transaction=False)
    for call in calls:
        pipeline.execute_command(*call)
    async with _in_time():
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
    return replies


async def load_scripts(redis: "Redis") -> None:
    """Load all scripts into the server, or into each master of a cluster that answers. Raises RedisError."""
    for script in files("orchestrator.runtime.redis").joinpath("lua").iterdir():
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
    """Read the run id of the server that has a key. It changes when the server restarts: writes may be lost then.

    Raises RedisError or TimeoutError.
    """
    async with _in_time():
        if isinstance(redis, RedisCluster):
            return await cluster.run_id(redis, await cluster.master(redis, key))
        return str((await redis.info("server"))["run_id"])


async def run_ids(redis: "Redis") -> Callable[[str], str]:
    """Read the run ids of all servers. Returns a function: key → run id of the key's server; empty if that server does
    not answer. Raises RedisError or TimeoutError.
    """
    async with _in_time():
        if isinstance(redis, RedisCluster):
            return await cluster.run_ids(redis)
    server = await run_id(redis, "")
    return lambda _: server
