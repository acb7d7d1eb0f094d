"""What differs between databases is tried on a real PostgreSQL too: making tables, upserts, archive, another layout."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from events.inputs import SttFinal
from orchestrator.runtime.history.archiver import archive, purge
from orchestrator.runtime.history.reconcile import rebuild
from projections.history.store import History
from tests.runtime.conftest import Place
from tests.runtime.history_support import caught_up, from_redis, rows, started, talk
from tests.runtime.postgres_server import Postgres
from tests.runtime.support import Running


async def test_a_history_in_postgresql(corner: tuple[Place, Running], postgresql: Postgres) -> None:
    """Two nodes that open it at once, a word with the character zero, archive, another layout, rebuild, purge."""
    place, running = corner
    database = await postgresql.database()
    both = [await started(place.url, place.keys, database) for _ in range(2)]
    ended = await talk(running)
    live = await running.listening()
    running.node.report(SttFinal(session_id=live.session_id, text="zero \0 byte", via="text"))
    await running.watch.phase(live.session_id, "LISTENING", 2)
    await caught_up(place.redis, place.keys)
    for projecting in both:
        await projecting.stop()
    expected = await from_redis(place.redis, place.keys)
    found = await rows(database)
    assert found["events"] == expected["events"]
    assert [row["text"] for row in found["turns"] if row["session_id"] == live.session_id] == ["zero \ufffd byte"]
    async with History(database) as history:
        assert [one async for one in archive(place.redis, place.keys, history, 2**53, is_dry=False)] == [(ended, "")]
        engine = create_async_engine(database)
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE layout SET version = 0"))
            await connection.execute(text("DELETE FROM turns"))
        await engine.dispose()
        assert await history.lay_out() == 2
        assert await rows(database) == found
        made = [one async for one, _, _ in rebuild(place.redis, place.keys, history)]
        assert sorted(made) == sorted([ended, live.session_id])
        assert await rows(database) == found
        assert [one async for one in purge(place.redis, place.keys, history, 2**53, is_dry=False)] == [(ended, "")]
        assert list(await history.archived()) == [live.session_id]
