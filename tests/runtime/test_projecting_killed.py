"""The process that keeps the history is killed at any moment, under load: SQL holds what a rebuild from zero holds.

`ORCH_KILLS=50 uv run pytest tests/runtime/test_projecting_killed.py` is the long form.
"""

import asyncio
import os
import random
import signal
from pathlib import Path

from sqlalchemy.engine import URL

from orchestrator.runtime.counters import Counters
from orchestrator.runtime.history.supervisor import HistoryKeeper
from tests.runtime.conftest import Place
from tests.runtime.history_support import caught_up, everything, from_redis, rows, sqlite, talk
from tests.runtime.postgres_server import Postgres
from tests.runtime.support import PATIENCE_S, Running

CATCH_UP_S = 120.0
"""The long form leaves a long backlog, of which even the feed has been trimmed."""
KILLS = int(os.environ.get("ORCH_KILLS", "5"))
TALKERS = 2
PAUSE_S = 0.2
"""Between two conversations of a talker: the machine is to be busy, not stuck."""


async def test_killed_over_sqlite(corner: tuple[Place, Running], tmp_path: Path) -> None:
    place, running = corner
    await killed_again_and_again(running, place, sqlite(tmp_path))


async def test_killed_over_postgresql(corner: tuple[Place, Running], postgresql: Postgres) -> None:
    place, running = corner
    await killed_again_and_again(running, place, await postgresql.database())


async def killed_again_and_again(running: Running, place: Place, database: URL) -> None:
    """Each time at a random moment after it has begun to write; conversations never pause for it."""
    over = asyncio.Event()

    async def talker() -> None:
        while not over.is_set():
            await talk(running)
            await asyncio.sleep(PAUSE_S)

    sql_url = database.render_as_string(hide_password=False)
    keeper = HistoryKeeper(place.url, place.keys, sql_url, Path(), lambda: everything(place.keys), Counters())
    await keeper.start()
    talkers = [asyncio.create_task(talker()) for _ in range(TALKERS)]
    chance = random.Random(KILLS)
    try:
        for _ in range(KILLS):
            await it_writes(place)
            await asyncio.sleep(chance.uniform(0.0, 0.3))  # the moment itself is what is tried
            assert keeper.pid, "it ended by itself"
            os.kill(keeper.pid, signal.SIGKILL)
    finally:
        over.set()
        await asyncio.gather(*talkers)
    await caught_up(place.redis, place.keys, CATCH_UP_S)
    await keeper.stop()
    found = await rows(database)
    assert len(found["sessions"]) > TALKERS
    assert found == await from_redis(place.redis, place.keys)


async def it_writes(place: Place) -> None:
    """Return when positions have moved since now."""

    async def published() -> list[dict[bytes, bytes]]:
        return [await place.redis.hgetall(place.keys.positions(n)) for n in range(place.keys.shards)]

    before = await published()
    async with asyncio.timeout(4 * PATIENCE_S):
        while await published() == before:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)
