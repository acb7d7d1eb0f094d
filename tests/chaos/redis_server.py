"""A Redis of one's own that can be killed, lose the end of its append-only file, and start again in the same place."""

import asyncio
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from redis.asyncio import Redis

from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import list_sessions
from tests.runtime.redis_server import Server


class RedisServer(Server):
    """`async with RedisServer("always") as server:` is up at `server.url`, and stays there over every restart."""

    def __init__(self, appendfsync: str = "everysec") -> None:
        super().__init__(tempfile.mkdtemp(prefix="orch-chaos-"), appendfsync)  # short enough for a socket's path

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        shutil.rmtree(Path(self.url.removeprefix("unix://")).parent)

    async def lose(self, chance: random.Random, at_most: int) -> tuple[int, dict[str, tuple[int, int]]]:
        """Of a server that is down: cut some bytes off its file, as a power failure would.

        Returns how many, and which versions were lost of each session: the last that is left, and the last there was.
        """
        async with self._aside() as redis:
            before = await _versions(redis)
        count = chance.randint(1, min(at_most, self.written - 1))
        self.cut(self.written - count)
        async with self._aside() as redis:
            await _rewritten(redis)
            after = await _versions(redis)
        lost = {session: (after.get(session, 0), last) for session, last in before.items()}
        return count, {session: (kept, last) for session, (kept, last) in lost.items() if kept != last}

    @asynccontextmanager
    async def _aside(self) -> AsyncIterator[Redis]:
        """The server, where no node finds it."""
        await self.start("aside.sock")
        try:
            async with Redis.from_url(self.url.replace("r.sock", "aside.sock")) as redis:
                yield redis
        finally:
            await self.kill()


async def _versions(redis: Redis) -> dict[str, int]:
    keys, versions = Keys(), {}
    for session_id in await list_sessions(redis, keys):
        ((last, _),) = await redis.xrevrange(keys.log(session_id), count=1)
        versions[session_id] = int(last.decode().partition("-")[2])
    return versions


async def _rewritten(redis: Redis) -> None:
    """Write the append-only file anew. Redis cuts a file that ends within a transaction off in the middle of it, and
    carries out that half at the next start; so this is due before anything is written after a cut.
    """
    await redis.bgrewriteaof()
    while (await redis.info("persistence"))["aof_rewrite_in_progress"]:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
