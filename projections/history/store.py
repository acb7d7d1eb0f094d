"""The database of the history: rows and positions are written in one transaction, or not at all."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import Insert, Table, Update, and_, bindparam, delete, event, func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.schema import CreateIndex, CreateTable

from projections.history import tables
from projections.history.fold import Changes, Row, SessionHistory, folded

logger = logging.getLogger(__name__)

HistoryError = SQLAlchemyError
"""What every method raises when the database is away, full or broken."""

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_UPSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_ROWS_AT_ONCE = 128
_MOVED = ("ms", "seq", "session_id", "version")
LAYOUT_NAME = "history"
SETTLE_S = 60.0


class BadDatabaseError(ValueError):
    """The URL of the database names none that orch can use; the message says what to do."""


class PositionMovedError(Exception):
    """Somebody else has projected this stream meanwhile: what we know of it is old, and nothing was written."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a stream is projected: its last entry, and of a feed, the step that this entry named."""

    stream: str
    seq: int = 0
    ms: int = 0
    session_id: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """From the position that is expected to a new one."""

    expected: Position
    new: Position


def database_url(url: str, data_dir: Path) -> URL:
    """The database that a setting means; empty: a file in the data directory. Raises BadDatabaseError."""
    try:
        parsed = make_url(url or f"sqlite:///{data_dir / 'history.db'}")
    except ArgumentError as error:
        raise BadDatabaseError(f"{error}; a database is named as in postgresql://user@host/name") from error
    driver = _DRIVERS.get(parsed.drivername, parsed.drivername)
    if driver not in _DRIVERS.values():
        raise BadDatabaseError(f"{parsed.drivername}: the history can be kept in postgresql://… or sqlite:///…")
    return parsed.set(drivername=driver)


class History:
    """`async with History(url) as history:` opens the database and makes the tables that are missing."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self._upsert = _UPSERT[url.get_backend_name()]
        self._engine = _engine(url)
        self._writing: dict[Table, _Statement] = {}
        position = tables.positions.c
        at = (position.stream == bindparam("at_stream"), position.ms == bindparam("at_ms"))
        moving = update(tables.positions).where(*at, position.seq == bindparam("at_seq"))
        self._moving = _Statement(self._engine, moving.values({name: bindparam(name) for name in _MOVED}))

    async def __aenter__(self) -> "History":
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Make what is missing. Raises HistoryError, OSError."""
        if (file := self._file()) is not None:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))  # it holds what users said
        try:
            await self._make_tables()
        except HistoryError:  # PostgreSQL refuses one of two who make the same at once, whatever they say
            await self._make_tables()

    async def _make_tables(self) -> None:
        async with self._engine.begin() as connection:
            for table in tables.metadata.sorted_tables:  # create_all looks first, and somebody else may make it then
                await connection.execute(CreateTable(table, if_not_exists=True))
                for index in table.indexes:
                    await connection.execute(CreateIndex(index, if_not_exists=True))
            new = self._upsert(tables.layout).on_conflict_do_nothing()
            await connection.execute(new, {"name": LAYOUT_NAME, "version": tables.LAYOUT})

    def exists(self) -> bool:
        """Whether there may be one; a reader makes no file."""
        file = self._file()
        return file is None or file.exists()

    def _file(self) -> Path | None:
        is_file = self.url.get_backend_name() == "sqlite" and self.url.database not in (None, "", ":memory:")
        return Path(str(self.url.database)) if is_file else None

    async def close(self) -> None:
        await self._engine.dispose()

    async def lay_out(self) -> int:
        """Where another version of orch has made the folded tables, make them anew from the archive, in one
        transaction; how many sessions that were. Raises HistoryError, BadEventError.
        """
        column, done = tables.layout.c, 0
        async with self._engine.begin() as connection:
            ours = update(tables.layout).where(column.name == LAYOUT_NAME, column.version != tables.LAYOUT)
            if (await connection.execute(ours.values(version=tables.LAYOUT))).rowcount == 0:
                return 0
            shards = dict(
                (await connection.execute(select(tables.sessions.c.session_id, tables.sessions.c.shard))).all()
            )
            for table in tables.FOLDED:
                await connection.run_sync(table.drop)
                await connection.run_sync(table.create)
            for session_id, shard in shards.items():
                changes = folded(session_id, shard, await _lines(connection, session_id, 1, 2**53))
                changes.events.clear()  # they are where they were
                await self._write_changes(connection, changes)
                done += 1
        return done

    async def positions(self, streams: Sequence[str]) -> dict[str, Position]:
        """How far each of these is projected; one that is new begins at 0."""
        async with self._engine.begin() as connection:
            rows = [{"stream": one, "ms": 0, "seq": 0, "session_id": "", "version": 0} for one in sorted(streams)]
            if rows:
                await connection.execute(self._upsert(tables.positions).on_conflict_do_nothing(), rows)
            found = await connection.execute(select(tables.positions).where(tables.positions.c.stream.in_(streams)))
            return {row.stream: Position(row.stream, row.seq, row.ms, row.session_id, row.version) for row in found}

    async def load(self, session_ids: Iterable[str]) -> dict[str, SessionHistory]:
        """What the tables say of these sessions; those that are not there are left out."""
        wanted = list(session_ids)
        async with self._reading() as connection:
            found = [dict(row) for row in await _all(connection, tables.sessions, wanted)]
            open_turns = {
                row["session_id"]: dict(row)
                for row in await _all(connection, tables.turns, wanted, tables.turns.c.ended_us.is_(None))
            }
            said = tables.transcript.c
            speaking = [
                dict(row)
                for row in await _all(
                    connection, tables.transcript, wanted, and_(said.speaker == "agent", said.outcome == "")
                )
            ]
        return {
            row["session_id"]: SessionHistory(
                row,
                open_turns.get(row["session_id"]),
                [one for one in speaking if one["session_id"] == row["session_id"]],
            )
            for row in found
        }

    async def lines(self, session_id: str, first: int = 1, last: int = 2**53) -> list[bytes]:
        """The archived lines of a session between two versions, in order."""
        async with self._reading() as connection:
            return await _lines(connection, session_id, first, last)

    async def last_lines(self, session_ids: Sequence[str]) -> dict[str, bytes]:
        """Of each session that is here, the archived line of its last version."""
        last, event_ = tables.sessions.c, tables.events.c
        query = select(event_.session_id, event_.line).where(
            event_.session_id == last.session_id,
            event_.version == last.version,
            last.session_id.in_(list(session_ids)),
        )
        async with self._reading() as connection:
            return {row[0]: row[1].encode() for row in await connection.execute(query)}

    async def archived(self) -> dict[str, int]:
        """Every session of the archive → its last version."""
        column = tables.events.c
        query = select(column.session_id, func.max(column.version)).group_by(column.session_id)
        async with self._reading() as connection:
            return {row[0]: row[1] for row in await connection.execute(query.order_by(column.session_id))}

    async def ended_before(self, before_us: int) -> dict[str, int]:
        """Sessions that ended before a time → their last version, the oldest first."""
        column = tables.sessions.c
        query = select(column.session_id, column.version).where(column.ended_us < before_us)
        async with self._reading() as connection:
            return {row[0]: row[1] for row in await connection.execute(query.order_by(column.ended_us))}

    async def counts(self) -> dict[str, int]:
        """Table → rows."""
        kept = (tables.sessions, tables.turns, tables.events, tables.unroutable)
        async with self._reading() as connection:
            return {t.name: int(await connection.scalar(select(func.count()).select_from(t)) or 0) for t in kept}

    async def write(
        self,
        moves: Sequence[Move],
        changes: Changes,
        *,
        anew: Iterable[str] = (),
        dead_letters: Sequence[Row] = (),
    ) -> None:
        """All of it in one transaction. `anew`: sessions of which everything that is there is removed before.

        Raises PositionMovedError, HistoryError.
        """
        async with self._engine.begin() as connection:
            await self._move(connection, sorted(moves, key=lambda move: move.new.stream))
            for session_id in anew:
                await _forget(connection, session_id)
            await self._write_changes(connection, changes)
            await self._write_rows(connection, tables.unroutable, list(dead_letters), replaces=True)

    async def settle(self) -> None:
        """Return when all that is committed would survive a loss of power. Raises HistoryError, TimeoutError."""
        if self._file() is None:
            return  # PostgreSQL waits for its disk before it says that something is committed
        async with self._reading() as connection, asyncio.timeout(SETTLE_S):
            while (await connection.execute(text("PRAGMA wal_checkpoint(FULL)"))).one()[0]:  # noqa: ASYNC110 - 1: somebody reads
                await asyncio.sleep(0.1)

    async def forget(self, session_ids: Sequence[str]) -> None:
        """Remove sessions from all tables, the archive too."""
        async with self._engine.begin() as connection:
            for session_id in session_ids:
                await _forget(connection, session_id)

    async def dead_letters_before(self, before_ms: int) -> int:
        """How many there are that are older."""
        query = select(func.count()).select_from(tables.unroutable).where(tables.unroutable.c.ms < before_ms)
        async with self._reading() as connection:
            return int(await connection.scalar(query) or 0)

    async def forget_dead_letters(self, before_ms: int) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(delete(tables.unroutable).where(tables.unroutable.c.ms < before_ms))

    async def _move(self, connection: AsyncConnection, moves: Sequence[Move]) -> None:
        """First of all in its transaction: it locks the streams against other writers, always in the same order."""
        values = [self._moving.values(_moved(move)) for move in moves]
        if values and self.url.get_backend_name() == "sqlite":  # whose driver counts what many have changed
            changed = (await connection.exec_driver_sql(self._moving.sql, values)).rowcount
        else:
            changed = sum([(await connection.exec_driver_sql(self._moving.sql, one)).rowcount for one in values])
        if changed != len(moves):
            raise PositionMovedError(
                f"not at {', '.join(f'{m.expected.stream} {m.expected.seq}' for m in moves)} any more"
            )

    async def _write_changes(self, connection: AsyncConnection, changes: Changes) -> None:
        await self._write_rows(connection, tables.events, changes.events)
        await self._write_rows(connection, tables.transitions, changes.transitions)
        await self._write_rows(connection, tables.sessions, list(changes.sessions.values()), replaces=True)
        await self._write_rows(connection, tables.turns, list(changes.turns.values()), replaces=True)
        await self._write_rows(connection, tables.transcript, list(changes.transcript.values()), replaces=True)

    async def _write_rows(
        self, connection: AsyncConnection, table: Table, rows: Sequence[Row], *, replaces: bool = False
    ) -> None:
        """As the driver takes it: what SQLAlchemy does for each statement and row costs more than all the rest."""
        if not rows:
            return
        if (statement := self._writing.get(table)) is None:
            new: Any = self._upsert(table) if replaces else insert(table)
            if replaces:
                values = {column.name: new.excluded[column.name] for column in table.c if not column.primary_key}
                new = new.on_conflict_do_update(index_elements=list(table.primary_key), set_=values)
            statement = self._writing[table] = _Statement(self._engine, new)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = [statement.values(row) for row in rows[start : start + _ROWS_AT_ONCE]]
            await connection.exec_driver_sql(statement.sql, part)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as connection:
            yield connection


class _Statement:
    """A statement in the words of the database, and how its values are taken from a row in their order."""

    def __init__(self, engine: AsyncEngine, statement: Insert | Update) -> None:
        compiled = statement.compile(dialect=engine.dialect)
        self.sql = str(compiled)
        assert compiled.positiontup, "both drivers take values by their position"
        self._pick = itemgetter(*compiled.positiontup)

    def values(self, row: Row) -> tuple[Any, ...]:
        """PostgreSQL cannot keep the character zero, which would stop the projection of its shard."""
        values: tuple[Any, ...] = self._pick(row)
        for value in values:
            if value.__class__ is str and "\0" in value:
                return tuple(one.replace("\0", "\ufffd") if isinstance(one, str) else one for one in values)
        return values


def _moved(move: Move) -> Row:
    at, new = move.expected, move.new
    row = {"at_stream": new.stream, "at_ms": at.ms, "at_seq": at.seq}
    return row | {"ms": new.ms, "seq": new.seq, "session_id": new.session_id, "version": new.version}


def _engine(url: URL) -> AsyncEngine:
    try:
        engine = create_async_engine(
            url, pool_size=2, hide_parameters=True, pool_pre_ping=url.get_backend_name() == "postgresql"
        )
    except ModuleNotFoundError as error:
        raise BadDatabaseError(
            f"no driver for {url.drivername}: install it with `pip install orch[postgres]`"
        ) from error
    except NoSuchModuleError as error:
        raise BadDatabaseError(str(error)) from error
    if url.get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    """Readers never wait for the writer. Losing power may cost the last rows together with their position: to wait for
    the disk with every commit would slow the Redis beside us, and with it calls (`settle` waits when it matters).
    """
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


async def _lines(connection: AsyncConnection, session_id: str, first: int, last: int) -> list[bytes]:
    column = tables.events.c
    query = select(column.line).where(column.session_id == session_id, column.version.between(first, last))
    return [line.encode() for line in await connection.scalars(query.order_by(column.version))]


async def _forget(connection: AsyncConnection, session_id: str) -> None:
    for table in (tables.events, *tables.FOLDED):
        await connection.execute(delete(table).where(table.c.session_id == session_id))


async def _all(connection: AsyncConnection, table: Table, session_ids: list[str], only: Any = None) -> list[Any]:
    found: list[Any] = []
    for start in range(0, len(session_ids), _ROWS_AT_ONCE):
        query = select(table).where(table.c.session_id.in_(session_ids[start : start + _ROWS_AT_ONCE]))
        found += (await connection.execute(query if only is None else query.where(only))).mappings()
    return found
