"""What the tests of projecting share: a node whose sessions are talked to, and waiting until SQL has all of it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from events.inputs import SessionCloseRequested, SttFinal
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.history.archiver import NAME
from orchestrator.runtime.history.projecting import Projecting
from orchestrator.runtime.history.reconcile import ends
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import list_sessions, read_lines
from projections.history.store import History, database_url
from tests.projections.history_rows import Rows, actual, expected
from tests.runtime.support import PATIENCE_S, Running


def sqlite(folder: Path) -> URL:
    return database_url("", folder)


def everything(keys: Keys) -> dict[int, str]:
    """All shards, as if they were ours."""
    return dict.fromkeys(range(keys.shards), "ours")


async def started(url: str, keys: Keys, database: URL, owned: Callable[[], dict[int, str]] | None = None) -> Projecting:
    """Projecting of all shards, or of those that are owned."""
    projecting = Projecting(url, keys, History(database), owned or (lambda: everything(keys)), Counters())
    await projecting.start()
    return projecting


async def talk(running: Running, turns: int = 2, *, ends: bool = True) -> str:
    """A conversation in text, and its session."""
    live = await running.listening()
    for number in range(turns):
        running.node.report(SttFinal(session_id=live.session_id, text=f"words {number}", via="text"))
        await running.watch.phase(live.session_id, "LISTENING", 2 + number)
    if ends:
        running.node.report(SessionCloseRequested(session_id=live.session_id, reason="goodbye"))
        await running.watch.phase(live.session_id, "ENDED")
    return live.session_id


async def caught_up(redis: Any, keys: Keys, patience_s: float = PATIENCE_S) -> None:
    """Return when the published positions are where the feeds end."""

    async def there() -> bool:
        end = await ends(redis, keys, set(range(keys.shards)))
        for number, position in end.items():
            published = await redis.hget(keys.positions(number), NAME)
            if position.seq and (published is None or int(published) != position.seq):
                return False
        return True

    async with asyncio.timeout(patience_s):
        while not await there():  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.01)


async def from_redis(redis: Any, keys: Keys) -> Rows:
    """What the tables must hold: all logs, folded from zero."""
    return expected({one: await read_lines(redis, keys, one) for one in await list_sessions(redis, keys)}, keys)


async def rows(database: URL) -> Rows:
    async with History(database) as history:
        return await actual(history)
