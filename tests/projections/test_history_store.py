"""The database: rows and position together or not at all, one writer per stream, and URLs that name none."""

import asyncio
import sqlite3
import stat
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.runtime.redis.keys import Keys
from projections.history import store
from projections.history.engine import prepare_sqlite
from projections.history.fold import Changes, folded, steps
from projections.history.store import (
    BadDatabaseError,
    History,
    Position,
    PositionMove,
    PositionMovedError,
    database_url,
)
from tests.projections.history_rows import actual, expected, logs

SESSION_ID, LINES = next(iter(logs().items()))
KEYS = Keys(4)


def changes_of(lines: list[bytes]) -> Changes:
    return folded(SESSION_ID, KEYS.shard_of(SESSION_ID), lines)


async def test_a_writer_whose_position_is_old_writes_nothing(tmp_path: Path) -> None:
    """Two at once are harmless: the position decides, and the rows go with it."""
    async with History(database_url("", tmp_path)) as history:
        start = (await history.positions(["feed"]))["feed"]
        await history.write([PositionMove(start, Position("feed", 3))], changes_of(LINES))
        with pytest.raises(PositionMovedError):
            await history.write([PositionMove(start, Position("feed", 4))], Changes(), anew=[SESSION_ID])
        assert (await history.positions(["feed"]))["feed"].seq == 3
        assert await actual(history) == expected({SESSION_ID: LINES}, KEYS)


async def test_rows_that_cannot_be_written_leave_the_position(tmp_path: Path) -> None:
    """An event that is already there is refused, and with it everything else."""
    async with History(database_url("", tmp_path)) as history:
        start = (await history.positions(["feed"]))["feed"]
        await history.write([PositionMove(start, Position("feed", 3))], changes_of(LINES))
        with pytest.raises(IntegrityError):
            await history.write([PositionMove(Position("feed", 3), Position("feed", 4))], changes_of(LINES))
        assert (await history.positions(["feed"]))["feed"].seq == 3


async def test_a_session_is_written_anew(tmp_path: Path) -> None:
    """Nothing of what was there stays, also where there is less now."""
    shorter = [line for step in list(steps(LINES))[:-3] for _, line in step]
    async with History(database_url("", tmp_path)) as history:
        start = (await history.positions(["feed"]))["feed"]
        await history.write([PositionMove(start, start)], changes_of(LINES))
        await history.write([PositionMove(start, start)], changes_of(shorter), anew=[SESSION_ID])
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
        await history.write([PositionMove(start, Position("feed", 3))], changes_of(LINES))
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


async def test_an_archived_event_that_cannot_be_read_stops_no_other_session(tmp_path: Path) -> None:
    """As one of a newer orch after a rollback. Its session keeps the rows of the events before it, and its age."""
    (other, others), *_ = (found for found in logs().items() if found[0] != SESSION_ID)
    async with History(database_url("", tmp_path)) as history:
        await history.write([], changes_of(LINES))
        await history.write([], folded(other, 0, others))
        (last_us,) = [row["last_us"] for row in (await actual(history))["sessions"] if row["session_id"] == SESSION_ID]
        engine = create_async_engine(history.url)
        async with engine.begin() as connection:
            bad = text("UPDATE events SET line = :line WHERE session_id = :one AND version = 20")
            await connection.execute(bad, {"line": '{"type":"FROM_THE_FUTURE","version":20}', "one": SESSION_ID})
            await connection.execute(text("UPDATE layout SET version = 0"))
        await engine.dispose()
        assert await history.lay_out() == 1
        rows = await actual(history)
        (session,) = [row for row in rows["sessions"] if row["session_id"] == SESSION_ID]
        assert 0 < session["version"] < 20
        assert session["last_us"] == last_us
        assert [row for row in rows["turns"] if row["session_id"] == other] == expected({other: others}, KEYS)["turns"]


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


def files_with(words: bytes, folder: Path) -> list[str]:
    """The files of the database that hold these words."""
    return [file.name for file in sorted(folder.iterdir()) if words in file.read_bytes()]


async def test_deleted_words_are_in_no_file_while_another_connection_is_open(tmp_path: Path) -> None:
    """Neither in the database nor in its write-ahead log, which stays while a service is connected."""
    words = LINES[0][:200]
    async with History(database_url("", tmp_path)) as service, History(database_url("", tmp_path)) as history:
        start = (await service.positions(["feed"]))["feed"]
        await service.write([PositionMove(start, Position("feed", 3))], changes_of(LINES))
        await service.settle()
        assert "history.db" in files_with(words, tmp_path)
        await history.forget([SESSION_ID])
        assert files_with(words, tmp_path)
        assert await history.overwrite() == ""
        assert files_with(words, tmp_path) == []
        assert (await service.counts())["events"] == 0


async def test_deleted_words_that_a_reader_still_sees_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader in a transaction needs the log; when it is over, the next purge empties the log."""
    monkeypatch.setattr(store, "SETTLE_S", 0.2)
    async with History(database_url("", tmp_path)) as history:
        await history.write([], changes_of(LINES))
        reader = sqlite3.connect(tmp_path / "history.db")
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (len(LINES),)
        await history.forget([SESSION_ID])
        told = await history.overwrite()
        assert f"{tmp_path / 'history.db'}-wal may still hold deleted words" in told
        await history.write([], changes_of(LINES))  # the attempts have left the connection as it was
        reader.close()
        assert await history.overwrite() == ""


def test_sqlite_overwrites_deleted_rows_also_where_it_was_not_built_to(tmp_path: Path) -> None:
    """Debian's builds do so by themselves, those of Python's own installers do not."""
    connection = sqlite3.connect(tmp_path / "history.db")
    connection.execute("PRAGMA secure_delete=OFF")
    prepare_sqlite(connection, None)
    assert connection.execute("PRAGMA secure_delete").fetchone() == (1,)
    connection.close()
