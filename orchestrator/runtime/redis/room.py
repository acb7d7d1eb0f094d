"""Watches the memory of Redis: before it is full, new conversations are refused, so that live ones can go on."""

import asyncio
import logging
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

LOOK_S = 2.0
FULL = 0.8
"""Fraction of the memory limit of Redis. If more memory is used, new conversations are refused. The remaining memory is
for live conversations: of a limit of 1,024 MB, it is enough for 20 conversations of the greatest length.
"""
NO_ROOM = "there is no room for new conversations: Redis is nearly full, and the operator can archive old ones"


class Room:
    """Checks the used memory of Redis every LOOK_S seconds. A Redis without a memory limit always has room."""

    def __init__(self, redis: Redis) -> None:
        self.is_short = False
        """Whether Redis is nearly full. If so, new conversations are refused."""
        self._redis = redis
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look_again(), name="room in Redis")

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look_again(self) -> None:
        while True:
            try:
                await self._look()
            except (RedisError, OSError) as error:
                logger.info("Redis does not say how full it is: %s", error)
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        fullest = max([_part(info) for info in await self._memory()], default=0.0)
        if fullest >= FULL and not self.is_short:
            logger.error(
                "Redis has used %d %% of its memory limit: no new conversations from now on; make room with "
                "`orch archive`, or raise the limit",
                100 * fullest,
            )
        elif fullest < FULL and self.is_short:
            logger.warning("Redis has room again: new conversations are taken")
        self.is_short = fullest >= FULL

    async def _memory(self) -> list[dict[str, Any]]:
        if not isinstance(self._redis, RedisCluster):
            return [await self._redis.info("memory")]
        masters = self._redis.get_primaries()
        return [await self._redis.info("memory", target_nodes=one) for one in masters]


def _part(info: dict[str, Any]) -> float:
    limit = int(info["maxmemory"])
    return int(info["used_memory"]) / limit if limit else 0.0
