"""Counts the work that waits in Redis, and the shards that have an owner, for `orch doctor`."""

from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis

from orchestrator.runtime.fleet import lease as leases
from orchestrator.runtime.redis.connection import Entry
from orchestrator.runtime.redis.keys import INGRESSES, Keys


@dataclass(frozen=True, slots=True)
class Backlog:
    """Numbers for `orch doctor`. Sessions, waiting events and dead letters are those of all shards and ingresses."""

    shards: int
    owned: int
    """Number of shards that have an owner."""
    nodes: int
    sessions: int
    waiting: int
    """Number of events in inboxes and ingresses that are not handled yet."""
    dead_letters: int


async def backlog(redis: Redis, keys: Keys) -> Backlog:
    """Count nodes, owned shards, and the sessions, waiting events and dead letters of all shards and ingresses."""
    every = [leases.shard(keys, n) for n in range(keys.shards)] + [leases.ingress(keys, n) for n in range(INGRESSES)]
    owned = sessions = waiting = dead_letters = 0
    for what in every:
        owned += what.kind == "shard" and bool(await redis.exists(what.lease))
        sessions += await redis.scard(what.sessions)
        dead_letters += await redis.xlen(what.dead_letters)
        cursor = cast("bytes", await redis.hget(what.owned, "cursor") or b"0-0").decode()
        waiting += len(cast("list[Entry]", await redis.xrange(what.stream, f"({cursor}")))
    return Backlog(keys.shards, owned, await redis.hlen(keys.nodes), sessions, waiting, dead_letters)
