"""Reads the settings of Redis, and warns about settings that may lose conversations or let strangers in."""

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

from orchestrator.runtime.redis import cluster
from orchestrator.web_names import is_loopback

UNKNOWN = "unknown"
"""Value of a setting that cannot be read: many hosted Redis services forbid CONFIG."""
OLDEST = (6, 2)
"""Oldest version of Redis that orch supports."""


@dataclass(frozen=True, slots=True)
class Durability:
    """How one Redis server keeps its data: its settings and its state."""

    server: str
    version: str
    appendonly: str
    appendfsync: str
    aof_load_truncated: str
    maxmemory: int
    """Bytes; 0: no limit."""
    maxmemory_policy: str
    is_writing: bool = True
    """Whether the last write to the append-only file succeeded."""
    is_snapshotting: bool = True
    """Whether the last snapshot (BGSAVE) succeeded."""
    is_loading: bool = False
    flushes: int = 0
    """How often FLUSHALL or FLUSHDB ran since the server started."""
    is_open: bool = False
    """Whether other machines may reach the server without a password."""

    def line(self) -> str:
        """Return the version and the settings as one line of text."""
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
        """Return a warning for each setting or state of the server that may lose conversations, keep orch from working,
        or let strangers in.
        """
        found = []
        if not self.is_writing:
            found.append("its append-only file cannot be written: is its disk full? See the log of Redis")
        if not self.is_snapshotting:
            found.append("its last snapshot (BGSAVE) failed: is its disk full? See the log of Redis")
        if self.is_loading:
            found.append("it is still loading its data")
        if tuple(map(int, self.version.split(".")[:2])) < OLDEST:
            found.append("orch needs version 6.2 or newer: older ones cannot trim a stream by its ids")
        if self.appendonly != "yes":
            found.append("a restart of Redis loses every conversation: set appendonly yes")
        elif self.appendfsync == "no":
            found.append("a crash of the machine may lose about 30 s: set appendfsync everysec, or always")
        if self.maxmemory and self.maxmemory_policy != "noeviction":
            found.append("Redis may throw conversations away when its memory is full: set maxmemory-policy noeviction")
        if self.is_open:
            found.append("whoever reaches it may read and change every conversation: give orch a user of its own there")
        return [f"{self.server}: {words}" for words in found]

    def notes(self) -> list[str]:
        """Return facts about the server that an operator should know. They need no change."""
        found = []
        if self.appendonly == "yes" and self.appendfsync == "everysec":
            found.append(
                "a crash of the machine, not of Redis alone, may lose up to two seconds of what was acknowledged; orch "
                "finds out, counts it and says what is gone. With appendfsync always nothing is lost"
            )
        if self.flushes:
            found.append(
                f"FLUSHALL or FLUSHDB ran {self.flushes} times since it started: conversations of before, if any, are "
                "in the history alone"
            )
        if not self.maxmemory:
            found.append("there is no limit to the memory of Redis: with one, a full Redis refuses new events in words")
        return [f"{self.server}: {words}" for words in found]


async def durability(redis: Redis) -> list[Durability]:
    """Read the settings and the state of the server, or of each master of a cluster. Raises RedisError."""
    if not isinstance(redis, RedisCluster):
        known = redis.connection_pool.connection_kwargs
        return [await _of(redis, "redis", is_open=_is_open(known, str(known.get("host", ""))))]
    await cluster.learn(redis)
    known = redis.get_connection_kwargs()
    return [
        await _of(redis, node.name, is_open=_is_open(known, str(node.host)), target_nodes=node)
        for node in redis.get_primaries()
    ]


def _is_open(known: dict[str, Any], host: str) -> bool:
    """Whether other machines may reach the Redis at this host without a password: the host is not the loopback of this
    machine, and the connection options hold no password or certificate. A Unix socket has no host: False.
    """
    shown = any(known.get(name) for name in ("password", "credential_provider", "ssl_certfile"))
    return bool(host) and not is_loopback(host) and not shown


async def _of(redis: Any, name: str, *, is_open: bool, **where: Any) -> Durability:
    info: dict[str, Any] = {}
    for section in ("server", "persistence", "memory", "commandstats"):
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
        is_writing=info.get("aof_last_write_status", "ok") == "ok",
        is_snapshotting=info.get("rdb_last_bgsave_status", "ok") == "ok",
        is_loading=bool(int(info.get("loading", 0))),
        is_open=is_open,
        flushes=sum(int(info.get(f"cmdstat_{one}", {}).get("calls", 0)) for one in ("flushall", "flushdb")),
    )
