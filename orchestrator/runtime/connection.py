"""Connections to Redis that never repeat a command by themselves, and the scripts."""

import asyncio
import logging
import socket
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import EqualJitterBackoff, NoBackoff
from redis.exceptions import NoScriptError

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
"""A command that is not answered in this time has failed."""
_BACKOFF = EqualJitterBackoff(cap=0.5, base=0.05)


def pause_s(failures: int) -> float:
    """How long to wait before a Redis that has failed so often in a row is asked again: soon at first, then twice or
    thrice a second, each of the many who ask at a moment of its own.
    """
    return _BACKOFF.compute(min(failures, 10))


def connect(url: str, max_connections: int = 64) -> "Redis":
    """A client for everything but reading streams. redis-py re-sends silently otherwise: one XADD call, two entries."""
    return Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        max_connections=max_connections,
        socket_timeout=None,  # redis-py 8 on Python 3.11 makes a task per reply for it, which swallows cancellations
        **keep_alive(url),
    )


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

    Raises RedisError or TimeoutError.
    """
    for _ in range(2):
        pipeline = redis.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(*call)
        async with asyncio.timeout(TIMEOUT_S):
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        if not any(isinstance(reply, NoScriptError) for reply in replies):
            break
        await load_scripts(redis)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def load_scripts(redis: "Redis") -> None:
    """Teach the server all scripts."""
    for script in files("orchestrator.runtime").joinpath("lua").iterdir():
        await redis.script_load(script.read_text())


async def run_id(redis: "Redis") -> str:
    """Names the life of the server process: another id is another life, and writes may be lost.

    Raises RedisError or TimeoutError.
    """
    async with asyncio.timeout(TIMEOUT_S):
        return str((await redis.info("server"))["run_id"])
