"""What can be seen of the shards from outside: who owns them, how far they are, and how long a take-over takes."""

import asyncio
import json
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.runtime.fleet import lease as leases
from orchestrator.runtime.fleet.lease import Ownable
from orchestrator.runtime.redis.commit import position
from orchestrator.runtime.redis.keys import INGRESSES, Keys

PATIENCE_S = 60.0
QUIET_S = 1.0
"""So long nothing may have moved before everything counts as handled: longer than the slowest answer."""


@dataclass(frozen=True)
class Left:
    """A shard with live conversations whose owner was killed."""

    number: int
    owner: bytes
    feed: str
    """Where its feed ended."""


async def shared(redis: Redis, keys: Keys, nodes: int) -> None:
    """Return when each of so many nodes has its share of the shards."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            pipeline = redis.pipeline(transaction=False)
            for number in range(keys.shards):
                pipeline.hget(keys.shard(number), "address")
            owned = Counter(await pipeline.execute())
            if len(owned) == nodes and min(owned.values()) >= keys.shards // nodes:
                return
            await asyncio.sleep(0.1)


async def left_behind(redis: Redis, keys: Keys, address: str) -> list[Left]:
    """The shards with live conversations that belong to the node at this address."""
    pipeline = redis.pipeline(transaction=False)
    for number in range(keys.shards):
        pipeline.hmget(keys.shard(number), ["owner", "address", "feed"])
        pipeline.scard(keys.sessions(number))
    replies = await pipeline.execute()
    return [
        Left(number, owner, f"0-{(feed or b'0').decode()}")
        for number, ((owner, where, feed), sessions) in enumerate(zip(replies[::2], replies[1::2], strict=True))
        if where == address.encode() and sessions
    ]


async def take_overs(redis: Redis, keys: Keys, left: list[Left], since_s: float) -> list[float]:
    """Milliseconds from `since_s` (time.monotonic) to the first step that a new owner commits, for each shard."""
    waiting = {keys.feed(one.number): one for one in left}
    positions = {stream: one.feed for stream, one in waiting.items()}
    took: list[float] = []
    async with asyncio.timeout(PATIENCE_S):
        while waiting:
            for stream, entries in await _new(redis, {name: positions[name] for name in waiting}):
                positions[stream] = entries[-1][0].decode()
                owner = await cast("Any", redis.hget(keys.shard(waiting[stream].number), "owner"))
                if owner != waiting[stream].owner:  # else the dead one's last words
                    took.append((time.monotonic() - since_s) * 1_000)
                    del waiting[stream]
    return took


async def _new(redis: Redis, positions: dict[str, str]) -> list[tuple[str, list[Any]]]:
    reply = cast("Any", await redis.xread(cast("Any", positions), block=1_000, count=1_000))
    pairs = reply.items() if isinstance(reply, dict) else reply or ()
    return [
        (name.decode(), [e for part in parts for e in part] if isinstance(reply, dict) else parts)
        for name, parts in pairs
    ]


def ownables(keys: Keys) -> list[Ownable]:
    shards = [leases.shard(keys, number) for number in range(keys.shards)]
    return shards + [leases.ingress(keys, number) for number in range(INGRESSES)]


async def lags(redis: Redis, keys: Keys) -> dict[str, int]:
    """How many entries each shard and ingress has still to handle; those that are at the end are left out."""
    pipeline, everything, cursors = redis.pipeline(transaction=False), ownables(keys), await _cursors(redis, keys)
    for what in everything:
        pipeline.xrange(what.stream, f"({cursors[what.name]}", count=10_000)
    rest = await pipeline.execute()
    return {what.name: len(entries) for what, entries in zip(everything, rest, strict=True) if entries}


async def _most(redis: Redis, keys: Keys, left: dict[str, int]) -> str:
    """What is waiting where most is: how many of which producer, type and session."""
    if not left:
        return ""
    name = max(left, key=left.__getitem__)
    stream = next(what.stream for what in ownables(keys) if what.name == name)
    found = Counter[tuple[str, ...]]()
    for _, fields in await redis.xrange(stream, f"({(await _cursors(redis, keys))[name]}", count=10_000):
        event = json.loads(fields.get(b"e", b"{}"))
        found[tuple(str(event.get(key, "")) for key in ("producer", "type", "session_id"))] += 1
    return f"{name} has {found.most_common(12)}"


async def recovered(redis: Redis, keys: Keys) -> None:
    """Return when everything is owned, and what is waiting now is handled. Raises AssertionError, with what is not."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await _recovered(redis, keys)
    except TimeoutError:
        left, owned = await lags(redis, keys), await _owned(redis, keys)
        words = f"after {PATIENCE_S:g} s, everything owned: {owned}, entries waiting: {left}"
        raise AssertionError(f"{words}; {await _most(redis, keys, left)}") from None


async def _recovered(redis: Redis, keys: Keys) -> None:
    ends: dict[str, str] = {}
    while True:
        with suppress(RedisError, OSError):  # it may not be back yet
            ends = ends or await _ends(redis, keys)
            if await _owned(redis, keys) and await _passed(redis, keys, ends):
                return
        await asyncio.sleep(0.02)


async def _owned(redis: Redis, keys: Keys) -> bool:
    """Whether everything has an owner."""
    pipeline = redis.pipeline(transaction=False)
    for what in ownables(keys):
        pipeline.exists(what.lease)
    return all(await pipeline.execute())


async def _ends(redis: Redis, keys: Keys) -> dict[str, str]:
    """Where the streams end, by the name of what reads them."""
    pipeline = redis.pipeline(transaction=False)
    for what in ownables(keys):
        pipeline.xrevrange(what.stream, count=1)
    last = await pipeline.execute()
    return {
        what.name: entries[0][0].decode() if entries else "0-0"
        for what, entries in zip(ownables(keys), last, strict=True)
    }


async def _passed(redis: Redis, keys: Keys, ends: dict[str, str]) -> bool:
    cursors = await _cursors(redis, keys)
    return all(position(cursors[name]) >= position(end) for name, end in ends.items())


async def _cursors(redis: Redis, keys: Keys) -> dict[str, str]:
    pipeline = redis.pipeline(transaction=False)
    for what in ownables(keys):
        pipeline.hget(what.owned, "cursor")
    return {
        what.name: (cursor or b"0-0").decode()
        for what, cursor in zip(ownables(keys), await pipeline.execute(), strict=True)
    }


async def all_handled(redis: Redis, keys: Keys) -> None:
    """Return when every cursor is at its end, and nothing has moved for a while. Raises AssertionError."""
    quiet_since, before = 0.0, -1
    lag: dict[str, int] = {}
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                lag, feeds = await lags(redis, keys), await _feeds(redis, keys)
                if lag or feeds != before:
                    quiet_since, before = time.monotonic(), feeds
                elif time.monotonic() - quiet_since >= QUIET_S:
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        words = f"not everything is handled after {PATIENCE_S:g} s; left: {lag}"
        raise AssertionError(f"{words}; {await _most(redis, keys, lag)}") from None


async def _feeds(redis: Redis, keys: Keys) -> int:
    """How many steps were ever committed."""
    pipeline = redis.pipeline(transaction=False)
    for number in range(keys.shards):
        pipeline.hget(keys.shard(number), "feed")
    return sum(int(feed or 0) for feed in await pipeline.execute())
