"""Sessions as a service leaves them: steps in Redis, rows in SQL, from the logs of recordings."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from events.codec import encode
from events.envelope import Event
from events.recording import parse, steps
from orchestrator.replay.replay import events_of
from orchestrator.runtime.redis.connection import connect
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from orchestrator.runtime.redis.keys import Keys
from projections.history.fold import folded
from projections.history.store import History, PositionMove
from tests.console.conftest import FIXTURES

KEYS = Keys()


def log_named(session_id: str, file: str = "barge_in.jsonl", after_us: int = 0) -> list[Event]:
    """The log of a fixture under another name and at another time."""
    found = []
    for event in events_of(parse((FIXTURES / file).read_bytes(), file)):
        ids = {"event_id": event.event_id + session_id, "cause": event.cause and event.cause + session_id}
        found.append(event.replace(session_id=session_id, at_us=event.at_us + after_us, **ids))
    return found


@asynccontextmanager
async def redis_in(folder: Path) -> AsyncIterator[Redis]:
    async with EmbeddedRedis(folder) as url, connect(url) as redis:
        yield redis


async def commit(redis: Redis, log: Sequence[Event], *, is_live: bool = False) -> None:
    """Append a log step by step, as commit.lua does."""
    session_id = log[0].session_id
    for step in steps(log):
        await redis.xadd(KEYS.log(session_id), {"e": b"\n".join(map(encode, step))}, id=f"0-{step[-1].version}")
    if is_live:
        await redis.sadd(KEYS.sessions(KEYS.shard_of(session_id)), session_id)


async def archive(history: History, log: Sequence[Event]) -> None:
    """Write a log into the history."""
    session_id = log[0].session_id
    at = (await history.positions(["test"]))["test"]
    changes = folded(session_id, KEYS.shard_of(session_id), map(encode, log))
    await history.write([PositionMove(at, at)], changes)
