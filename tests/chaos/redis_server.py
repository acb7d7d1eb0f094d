"""A Redis of one's own that can be killed, lose the end of its append-only file, and start again in the same place."""

import asyncio
import random
import shutil
import tempfile
from pathlib import Path
from typing import Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.runtime.embedded import find_server

PATIENCE_S = 30.0


class RedisServer:
    """`async with RedisServer("always") as server:` is up at `server.url`, and stays there over every restart."""

    def __init__(self, appendfsync: str = "everysec") -> None:
        self._appendfsync = appendfsync
        self._folder = Path(tempfile.mkdtemp(prefix="orch-chaos-"))  # where paths are short enough for a socket
        self.url = f"unix://{self._folder / 'redis.sock'}"
        self._process: asyncio.subprocess.Process | None = None
        self._is_cut = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        shutil.rmtree(self._folder)

    async def start(self) -> None:
        """Return when it answers, its file loaded, and written anew if its end was cut off."""
        socket = self.url.removeprefix("unix://")
        self._process = await asyncio.create_subprocess_exec(
            *(find_server(), "--port", "0", "--unixsocket", socket, "--dir", str(self._folder), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", self._appendfsync, "--maxmemory-policy", "noeviction"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with Redis.from_url(self.url) as redis, asyncio.timeout(PATIENCE_S):
            while not await _answers(redis):
                assert self._process.returncode is None, "Redis did not start"
                await asyncio.sleep(0.01)
            if self._is_cut:
                await rewritten(redis)
                self._is_cut = False

    async def kill(self) -> None:
        """As `kill -9`."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def cut(self, chance: random.Random, at_most: int) -> int:
        """Cut some bytes off the end of the append-only file, as a power failure would; returns how many."""
        assert self._process is None, "only of a server that is down"
        files = [self._folder / "appendonly.aof", *sorted(self._folder.glob("appendonlydir/*.incr.aof"))]
        path = next(file for file in reversed(files) if file.exists())
        size = path.stat().st_size
        count = chance.randint(1, min(at_most, size - 1))
        with path.open("r+b") as file:
            file.truncate(size - count)
        self._is_cut = True
        return count


async def rewritten(redis: Redis) -> None:
    """Write the append-only file anew. Redis cuts a file that ends within a transaction off in the middle of it, and
    carries out that half at the next start; so this is due before anything is written after a cut.
    """
    await redis.bgrewriteaof()
    while (await redis.info("persistence"))["aof_rewrite_in_progress"]:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)


async def _answers(redis: Redis) -> bool:
    try:
        return bool(await redis.ping())
    except (RedisError, OSError):  # not yet, or it is still loading
        return False
