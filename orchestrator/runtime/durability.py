"""What a Redis promises to keep: its settings of durability and memory, and what is weak about them, in words."""

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

UNKNOWN = "unknown"
"""CONFIG is forbidden, as many who run Redis for others do."""
OLDEST = (6, 2)


@dataclass(frozen=True, slots=True)
class Durability:
    """One server."""

    server: str
    version: str
    appendonly: str
    appendfsync: str
    aof_load_truncated: str
    maxmemory: int
    """Bytes; 0: no limit."""
    maxmemory_policy: str

    def line(self) -> str:
        """All of it."""
        memory = f"{self.maxmemory:,} bytes" if self.maxmemory else "no limit"
        return ", ".join(
            (
                f"{self.server}: version {self.version}",
                f"appendonly {self.appendonly}",
                f"appendfsync {self.appendfsync}",
                f"aof-load-truncated {self.aof_load_truncated}",
                f"maxmemory {memory}",
                f"maxmemory-policy {self.maxmemory_policy}",
            )
        )

    def warnings(self) -> list[str]:
        """What may harm a caller."""
        found = []
        if tuple(map(int, self.version.split(".")[:2])) < OLDEST:
            found.append("orch needs version 6.2 or newer: older ones cannot trim a stream by its ids")
        if self.appendonly != "yes":
            found.append("a restart of Redis loses every conversation: set appendonly yes")
        elif self.appendfsync == "no":
            found.append("a crash of the machine may lose about 30 s: set appendfsync everysec, or always")
        if self.maxmemory and self.maxmemory_policy != "noeviction":
            found.append("Redis may throw conversations away when its memory is full: set maxmemory-policy noeviction")
        return [f"{self.server}: {words}" for words in found]

    def notes(self) -> list[str]:
        """What one ought to know."""
        found = []
        if self.appendonly == "yes" and self.appendfsync == "everysec":
            found.append(
                "a crash of the machine, not of Redis alone, may lose up to two seconds of what was acknowledged; orch "
                "finds out, counts it and says what is gone. With appendfsync always nothing is lost"
            )
        if not self.maxmemory:
            found.append("there is no limit to the memory of Redis: with one, a full Redis refuses new events in words")
        return [f"{self.server}: {words}" for words in found]


async def durability(redis: Redis) -> list[Durability]:
    """Of the server, or of each master of a cluster. Raises RedisError."""
    if not isinstance(redis, RedisCluster):
        return [await _of(redis, "redis")]
    await redis.initialize()
    return [await _of(redis, node.name, target_nodes=node) for node in redis.get_primaries()]


async def _of(redis: Any, name: str, **where: Any) -> Durability:
    info: dict[str, Any] = {}
    for section in ("server", "persistence", "memory"):
        info |= await redis.info(section, **where)
    try:
        config: dict[str, str] = await redis.config_get("a*f*", **where)
    except RedisError:
        config = {}
    return Durability(
        server=name,
        version=str(info["redis_version"]),
        appendonly="yes" if info["aof_enabled"] else "no",
        appendfsync=config.get("appendfsync", UNKNOWN),
        aof_load_truncated=config.get("aof-load-truncated", UNKNOWN),
        maxmemory=int(info["maxmemory"]),
        maxmemory_policy=str(info["maxmemory_policy"]),
    )
