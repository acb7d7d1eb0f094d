"""The database: rows and position together or not at all, one writer per stream, and URLs that name none."""

import asyncio
import stat
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.runtime.redis.keys import Keys
from projections.history.fold import Changes, folded, steps
from projections.history.store import BadDatabaseError, History, Move, Position, PositionMovedError, database_url
from tests.projections.history_rows import actual, expected, logs

SESSION_ID, LINES = next(iter(logs().items()))
KEYS = Keys(4)


def changes_of(lines: list[bytes]) -> Changes:
    return folded(SESSION_ID, KEYS.shard_of(SESSION_ID), lines)


async def test_a_writer_whose_position_is_old_writes_nothing(tmp_path: Path) -> None:
    """Two at once are harmless: the position decides, and the rows go with it."""
    async with History(database_url("", tmp_path)) as history:
        start = (await history.positions(["feed"]))["feed"]
        await history.write([Move(start, Position("feed", 3))], changes_of(LINES))
        with pytest.raises(PositionMovedError):
            await history.write([Move(start, Position("feed", 4))], Changes(), anew=[SESSION_ID])
        assert (await history.positions(["feed"]))["feed"].seq == 3
        assert await actual(history) == expected({SESSION_ID: LINES}, KEYS)


async def test_rows_that_cannot_be_written_leave_the_position(tmp_path: Path) -> None:
    """An event that is already there is refused, and with it everything else."""
    async with History(database_url("", tmp_path)) as history:
        start = (await history.positions(["feed"]))["feed"]
        await history.write([Move(start, Position("feed", 3))], changes_of(LINES))
        with pytest.raises(IntegrityError):
            await history.write([Move(Position("feed", 3), Position("feed", 4))], changes_of(LINES))
        assert (await history.positions(["feed"]))["feed"].seq == 3


async def test_a_session_is_written_anew(tmp_path: Path) -> None:
    """Nothing of what was there stays, also where there is less now."""
    shorter = [line for step in list(steps(LINES))[:-3] for _, line in step]
    async with History(database_url("", tmp_path)) as history:
        start = (await history.positions(["feed"]))["feed"]
        await history.write([Move(start, start)], changes_of(LINES))
        await history.write([Move(start, start)], changes_of(shorter), anew=[SESSION_ID])
        assert await actual(history) == expected({SESSION_ID: shorter}, KEYS)
        assert await history.lines(SESSION_ID) == shorter
        assert await history.archived() == {SESSION_ID: len(shorter)}


async def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """It holds what users said."""
    async with History(database_url("", tmp_path / "new")):
        assert stat.S_IMODE((tmp_path / "new" / "history.db").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("url", "words"),
    [("mysql://localhost/x", "mysql: the history can be kept in"), ("history.db", "write it as postgresql")],
)
def test_another_database_is_refused_in_words(url: str, words: str) -> None:
    with pytest.raises(BadDatabaseError, match=words):
        database_url(url, Path("/nowhere"))


async def test_tables_of_another_version_of_orch_are_made_anew_from_the_archive(tmp_path: Path) -> None:
    """In one transaction; the archive stays as it is, and nothing is asked of Redis."""
    async with History(database_url("", tmp_path)) as history:
        start = (await history.positions(["feed"]))["feed"]
        await history.write([Move(start, Position("feed", 3))], changes_of(LINES))
        assert await history.lay_out() == 0
        engine = create_async_engine(history.url)
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE layout SET version = 0"))
            await connection.execute(text("DROP TABLE turns"))
            await connection.execute(text("CREATE TABLE turns (another INTEGER)"))
            await connection.execute(text("DELETE FROM transcript"))
            await connection.execute(text("DROP TABLE tool_calls"))
        await engine.dispose()
        await history.open()  # as at the start of the service; the command line does no more
        assert await history.lay_out() == 1
        assert await actual(history) == expected({SESSION_ID: LINES}, KEYS)
        assert await history.lay_out() == 0


async def test_what_a_user_says_cannot_stop_the_history(tmp_path: Path) -> None:
    """PostgreSQL cannot keep the character zero; it is replaced where rows are written."""
    changes = folded(SESSION_ID, 0, LINES)
    changes.transitions[0]["reason"] = "a\0b"
    async with History(database_url("", tmp_path)) as history:
        await history.write([], changes)
        assert (await actual(history))["transitions"][0]["reason"] == "a\ufffdb"


async def test_many_may_make_the_tables_at_once(tmp_path: Path) -> None:
    """Each finds them or makes them; none falls over what another one has just made."""
    for number in range(5):
        url = database_url("", tmp_path / str(number))
        histories = [History(url) for _ in range(6)]
        await asyncio.gather(*(history.open() for history in histories))
        assert [(await history.counts())["events"] for history in histories] == [0] * 6
        await asyncio.gather(*(history.close() for history in histories))
