"""Connections to Redis that never repeat a command by themselves, and the scripts."""

import logging
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

logger = logging.getLogger(__name__)


def connect(url: str, max_connections: int = 64) -> "Redis":
    """A client for commits and appends. redis-py re-sends silently otherwise: one XADD call, two entries."""
    return Redis.from_url(
        url, retry=Retry(NoBackoff(), 0), retry_on_error=[], max_connections=max_connections, socket_timeout=None
    )


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
    """Run scripts in one round trip; a server that was restarted is taught them again. Raises RedisError."""
    for _ in range(2):
        pipeline = redis.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(*call)
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
    """Names the life of the server process: another id is another life, and writes may be lost."""
    return str((await redis.info("server"))["run_id"])
