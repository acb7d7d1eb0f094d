"""Reads committed events: session logs, the list of sessions, and a live tail."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any, cast

from redis.asyncio import Redis, RedisCluster

from events.codec import decode
from events.envelope import Event
from orchestrator.runtime.redis.connection import Entry, ask
from orchestrator.runtime.redis.keys import Keys

PAGE = 500
LOOK_S = 0.2


class UnknownSessionError(LookupError):
    """No log of that session is in this Redis."""


async def keys_of(redis: Redis, prefix: str = "voice") -> Keys:
    """Return the key names for this Redis, with the number of shards that the service stored at its first start."""
    stored = await redis.get(f"{prefix}:shards")
    return Keys(int(stored), prefix) if stored else Keys(prefix=prefix)


async def read_lines(
    redis: Redis, keys: Keys, session_id: str, *, first: int = 0, most: int | None = None
) -> list[bytes]:
    """Read the lines of a session's log, in order: one line of canonical JSON per event.

    `first`: leave out the steps that end before this version. `most`: read at most this many steps. Raises
    UnknownSessionError if there is no such step, and RedisError.
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
    """Read the events of a session's log; arguments and errors as for `read_lines`. Also raises BadEventError if an
    event cannot be read.
    """
    return [decode(line) for line in await read_lines(redis, keys, session_id, first=first, most=most)]


async def list_sessions(redis: Redis, keys: Keys) -> dict[str, bool]:
    """Return session id → whether the session is live, for all sessions that are live or whose log is in Redis."""
    live = {
        cast("bytes", member).decode()
        for shard in range(keys.shards)
        for member in await redis.smembers(keys.sessions(shard))
    }
    found = live | await all_logs(redis, keys)
    return {session_id: session_id in live for session_id in sorted(found)}


async def all_logs(redis: Redis, keys: Keys) -> set[str]:
    """Return the ids of the sessions whose logs are in Redis."""
    found = redis.scan_iter(match=f"{keys.prefix}:*:session:*:log", count=1_000)
    return {key.decode().removesuffix(":log").partition(":session:")[2] async for key in found}


async def last_versions(redis: Redis, keys: Keys, session_ids: Iterable[str]) -> dict[str, int]:
    """Return session id → last version of its log. Sessions without a log in this Redis are left out. Raises
    RedisError.
    """
    wanted, found = list(session_ids), dict[str, int]()
    for start in range(0, len(wanted), PAGE):
        part = wanted[start : start + PAGE]
        lasts = await ask(redis, [("XREVRANGE", keys.log(one), "+", "-", "COUNT", 1) for one in part])
        found |= {one: int(last[0][0].split(b"-")[1]) for one, last in zip(part, lasts, strict=True) if last}
    return found


async def feed_ends(redis: Redis, keys: Keys, shards: Iterable[int]) -> dict[int, Entry | None]:
    """Return shard → last entry of its feed; None: the feed is empty. Raises RedisError."""
    wanted = sorted(shards)
    replies = await ask(redis, [("XREVRANGE", keys.feed(number), "+", "-", "COUNT", 1) for number in wanted])
    return {number: reply[0] if reply else None for number, reply in zip(wanted, replies, strict=True)}


async def follow(redis: Redis, keys: Keys, positions: dict[str, str]) -> AsyncGenerator[Event, None]:
    """Yield committed events as they arrive, until the generator is closed. Raises RedisError, or BadEventError if an
    event cannot be read.

    `positions`: key of a log or feed → the entry id after which to start; logs and feeds may be mixed. A feed yields
    the events of all sessions of its shard.
    """
    streams = dict(positions)
    while True:
        for stream, entries in await _news(redis, streams):
            for entry_id, fields in entries:
                streams[stream] = entry_id.decode()
                for line in await _lines(redis, keys, fields):
                    yield decode(line)


async def follow_steps(
    redis: Redis, keys: Keys, session_id: str, after: int
) -> AsyncGenerator[list[list[bytes]], None]:
    """Yield the steps of a session after version `after`, as they are committed. Ends only when the generator is
    closed.

    Each yielded list has all steps that one read has found. A step is a list of lines: the canonical JSON of its
    events.
    """
    at = f"0-{after}"
    while True:
        for _, entries in await _news(redis, {keys.log(session_id): at}):
            at = entries[-1][0].decode()
            yield [fields[b"e"].split(b"\n") for _, fields in entries]


async def _news(redis: Redis, streams: dict[str, str]) -> list[tuple[str, list[Entry]]]:
    """Read new entries of streams, and return pairs (stream, entries); an empty list if there are none. `streams`: key
    of a stream → the entry id after which to read.

    If there are no new entries, waits up to 4 s for them. On a cluster, one command cannot wait for streams of several
    masters: sleeps LOOK_S seconds and returns an empty list.
    """
    if not isinstance(redis, RedisCluster):
        return _pairs(await redis.xread(cast("Any", streams), block=4_000, count=PAGE))
    replies = await ask(redis, [("XREAD", "COUNT", PAGE, "STREAMS", *one) for one in streams.items()])
    found = [pair for reply in replies for pair in _pairs(reply)]
    if not found:
        await asyncio.sleep(LOOK_S)
    return found


async def _lines(redis: Redis, keys: Keys, fields: dict[bytes, bytes]) -> list[bytes]:
    """Return the encoded events of a step. `fields` are the fields of a log entry, which contains the events, or of a
    feed entry, which points to a log entry.
    """
    if b"e" in fields:
        return fields[b"e"].split(b"\n")
    last = f"0-{fields[b't'].decode()}"
    entries = await _range(redis, keys.log(fields[b"s"].decode()), last, last)
    return [line for _, entry in entries for line in entry[b"e"].split(b"\n")]


async def _range(redis: Redis, key: str, first: str, last: str, most: int = PAGE) -> list[Entry]:
    return cast("list[Entry]", await redis.xrange(key, first, last, count=most))


def _pairs(reply: object) -> list[tuple[str, list[Entry]]]:
    """Convert redis-py's reply to XREAD into pairs (stream, entries). Under RESP3, the reply is a dict with one more
    level of lists; under RESP2, it has pairs already.
    """
    if isinstance(reply, dict):
        return [(stream.decode(), [e for part in parts for e in part]) for stream, parts in reply.items()]
    return [(stream.decode(), entries) for stream, entries in reply or ()]  # type: ignore[attr-defined]
