"""Reading what was committed: session logs, the list of sessions, and a live tail."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis, RedisCluster

from events.codec import decode
from events.envelope import Event
from orchestrator.runtime import lease as leases
from orchestrator.runtime.connection import Entry, ask
from orchestrator.runtime.keys import INGRESSES, Keys

PAGE = 500
LOOK_S = 0.2


class UnknownSessionError(LookupError):
    """No log of that session is in this Redis."""


async def keys_of(redis: Redis, prefix: str = "voice") -> Keys:
    """The keys as the service laid them out at its first start."""
    stored = await redis.get(f"{prefix}:shards")
    return Keys(int(stored), prefix) if stored else Keys(prefix=prefix)


async def read_lines(
    redis: Redis, keys: Keys, session_id: str, *, first: int = 0, most: int | None = None
) -> list[bytes]:
    """The canonical lines of a session's log, in order: of all steps, or of those that end at version `first` or later,
    or of so many steps. Raises UnknownSessionError where there are none.
    """
    lines: list[bytes] = []
    start = f"0-{first}" if first else "-"
    while entries := await _range(redis, keys.log(session_id), start, "+", most or PAGE):
        for _, fields in entries:
            lines += fields[b"e"].split(b"\n")
        start = "(" + entries[-1][0].decode()
        if most:
            break
    if not lines:
        raise UnknownSessionError(f"no session {session_id!r} here; `orch sessions` lists those there are")
    return lines


async def read_log(
    redis: Redis, keys: Keys, session_id: str, *, first: int = 0, most: int | None = None
) -> list[Event]:
    """The committed events of a session, chosen as read_lines does. Raises UnknownSessionError, BadEventError."""
    return [decode(line) for line in await read_lines(redis, keys, session_id, first=first, most=most)]


async def list_sessions(redis: Redis, keys: Keys) -> dict[str, bool]:
    """All sessions whose logs are here → whether they are live."""
    live = {
        cast("bytes", member).decode()
        for shard in range(keys.shards)
        for member in await redis.smembers(keys.sessions(shard))
    }
    found = live | await all_logs(redis, keys)
    return {session_id: session_id in live for session_id in sorted(found)}


async def all_logs(redis: Redis, keys: Keys) -> set[str]:
    """The sessions whose logs are in Redis."""
    found = redis.scan_iter(match=f"{keys.prefix}:*:session:*:log", count=1_000)
    return {key.decode().removesuffix(":log").partition(":session:")[2] async for key in found}


@dataclass(frozen=True, slots=True)
class Backlog:
    """How the service is doing, as Redis has it."""

    shards: int
    owned: int
    nodes: int
    sessions: int
    waiting: int
    """Events in inboxes and ingresses that nobody has handled yet."""
    dead_letters: int


async def backlog(redis: Redis, keys: Keys) -> Backlog:
    """What there is, of all shards and ingresses."""
    every = [leases.shard(keys, n) for n in range(keys.shards)] + [leases.ingress(keys, n) for n in range(INGRESSES)]
    owned = sessions = waiting = dead_letters = 0
    for what in every:
        owned += what.kind == "shard" and bool(await redis.exists(what.lease))
        sessions += await redis.scard(what.sessions)
        dead_letters += await redis.xlen(what.dead_letters)
        cursor = cast("bytes", await redis.hget(what.owned, "cursor") or b"0-0").decode()
        waiting += len(cast("list[Entry]", await redis.xrange(what.stream, f"({cursor}")))
    return Backlog(keys.shards, owned, await redis.hlen(keys.nodes), sessions, waiting, dead_letters)


async def feed_ends(redis: Redis, keys: Keys, shards: Iterable[int]) -> dict[int, Entry | None]:
    """The last entries of the feeds of these shards; None: it is empty. Raises RedisError."""
    wanted = sorted(shards)
    replies = await ask(redis, [("XREVRANGE", keys.feed(number), "+", "-", "COUNT", 1) for number in wanted])
    return {number: reply[0] if reply else None for number, reply in zip(wanted, replies, strict=True)}


async def follow(redis: Redis, keys: Keys, positions: dict[str, str]) -> AsyncGenerator[Event, None]:
    """Committed events as they come, of logs or feeds, each from its position on."""
    streams = dict(positions)
    while True:
        for stream, entries in await _news(redis, streams):
            for entry_id, fields in entries:
                streams[stream] = entry_id.decode()
                for line in await _lines(redis, keys, fields):
                    yield decode(line)


async def _news(redis: Redis, streams: dict[str, str]) -> list[tuple[str, list[Entry]]]:
    """What came after these positions, of each stream; in a cluster, where one command reads no two of them, now."""
    if not isinstance(redis, RedisCluster):
        return _pairs(await redis.xread(cast("Any", streams), block=4_000, count=PAGE))
    replies = await ask(redis, [("XREAD", "COUNT", PAGE, "STREAMS", *one) for one in streams.items()])
    found = [pair for reply in replies for pair in _pairs(reply)]
    if not found:
        await asyncio.sleep(LOOK_S)
    return found


async def _lines(redis: Redis, keys: Keys, fields: dict[bytes, bytes]) -> list[bytes]:
    """The lines of a log entry, or those that a feed entry points at."""
    if b"e" in fields:
        return fields[b"e"].split(b"\n")
    last = f"0-{fields[b't'].decode()}"
    entries = await _range(redis, keys.log(fields[b"s"].decode()), last, last)
    return [line for _, entry in entries for line in entry[b"e"].split(b"\n")]


async def _range(redis: Redis, key: str, first: str, last: str, most: int = PAGE) -> list[Entry]:
    return cast("list[Entry]", await redis.xrange(key, first, last, count=most))


def _pairs(reply: object) -> list[tuple[str, list[Entry]]]:
    """redis-py gives a dict under RESP3 (with one more level of lists) and pairs under RESP2."""
    if isinstance(reply, dict):
        return [(stream.decode(), [e for part in parts for e in part]) for stream, parts in reply.items()]
    return [(stream.decode(), entries) for stream, entries in reply or ()]  # type: ignore[attr-defined]
