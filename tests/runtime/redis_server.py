"""A Redis server of a test's own, that may be killed, lose its last writes, freeze, and be started again."""

import asyncio
import os
import signal
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.runtime.redis.embedded import find_server
from tests.runtime.support import soon_in_redis


class Server:
    """It listens at the same socket in each of its lives, with its append-only file in `folder`."""

    def __init__(self, folder: str, appendfsync: str = "always") -> None:
        self._folder = folder
        self._appendfsync = appendfsync
        self.url = f"unix://{folder}/r.sock"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, socket: str = "r.sock") -> None:
        """Return when it answers, at its socket or for once at another one in its folder."""
        self._process = await asyncio.create_subprocess_exec(
            *(find_server(), "--port", "0", "--unixsocket", f"{self._folder}/{socket}", "--dir", self._folder),
            *("--appendonly", "yes", "--appendfsync", self._appendfsync, "--save", ""),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with Redis.from_url(f"unix://{self._folder}/{socket}") as redis:
            await soon_in_redis(lambda: _answers(redis))

    async def kill(self) -> None:
        self._signal(signal.SIGKILL)
        assert self._process is not None
        await self._process.wait()

    def freeze(self) -> None:
        """It accepts connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    @property
    def written(self) -> int:
        """The length of its append-only file."""
        return self._file.stat().st_size

    def cut(self, length: int) -> None:
        """The killed server has lost all that it wrote beyond this length."""
        os.truncate(self._file, length)

    @property
    def _file(self) -> Path:
        """Redis 7 and later keep it in pieces in a folder of its own; the last is the one that is written."""
        (file,) = [*Path(self._folder).glob("appendonly.aof"), *Path(self._folder).glob("appendonlydir/*.incr.aof")]
        return file


async def _answers(redis: Redis) -> bool:
    try:
        return bool(await redis.ping())
    except RedisError:
        return False
