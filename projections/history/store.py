"""The SQL database of the history. Rows and positions (checkpoints) are written in one transaction."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Insert, Table, Update, and_, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateIndex, CreateTable

from orchestrator.private_files import open_private
from projections.history import tables
from projections.history.engine import BadDatabaseError as BadDatabaseError
from projections.history.engine import database_url as database_url
from projections.history.engine import engine_for, is_checkpointed
from projections.history.fold import Changes, Row, SessionHistory, folded_until_unreadable

logger = logging.getLogger(__name__)

HistoryError = SQLAlchemyError
"""Raised by every method when the database is away, full or broken."""

_UPSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_ROWS_AT_ONCE = 128
_MOVED = ("ms", "seq", "session_id", "version")
LAYOUT_NAME = "history"
SETTLE_S = 60.0
"""How long a checkpoint of SQLite's write-ahead log waits for other programs, in seconds."""


class PositionMovedError(Exception):
    """Another process has moved the position of a stream meanwhile, so nothing was written. The calling code must load
    the positions again.
    """


@dataclass(frozen=True, slots=True)
class Position:
    """Checkpoint of a stream: the last entry projected. For a feed, also the step to which this entry points."""

    stream: str
    seq: int = 0
    ms: int = 0
    session_id: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class PositionMove:
    """Compare-and-set of a position: from the expected position to a new one."""

    expected: Position
    new: Position


class History:
    """The history database. `async with History(url) as history:` opens it and creates missing tables."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self._upsert = _UPSERT[url.get_backend_name()]
        self._engine = engine_for(url)
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
        """Create the missing file and tables. Raises HistoryError; for the file, NotPrivateError or OSError."""
        if (file := self._file()) is not None:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(open_private(file))  # private: the file holds users' words
        version = await self._version()
        if version == tables.LAYOUT:  # write nothing: a write may wait for a lock that another process holds
            return
        is_new = version is None
        try:
            await self._make_tables(with_indexes=is_new)
        except HistoryError:  # two processes create the tables at once: PostgreSQL fails one of them
            await self._make_tables(with_indexes=is_new)

    async def _version(self) -> int | None:
        """Read the version of the tables; None: there are no tables. The version is written after all tables exist."""
        query = select(tables.layout.c.version).where(tables.layout.c.name == LAYOUT_NAME)
        try:
            async with self._engine.connect() as connection:
                return cast("int | None", await connection.scalar(query))
        except HistoryError:  # no such table; if the database has another fault, `_make_tables` raises
            return None

    async def _make_tables(self, *, with_indexes: bool) -> None:
        """Create the missing tables and, if `with_indexes`, their indexes. Do not ask for indexes if the tables are of
        another version and may lack the indexed columns: `lay_out` creates those indexes.
        """
        async with self._engine.begin() as connection:
            for table in tables.metadata.sorted_tables:  # create_all checks first, which races with other processes
                await connection.execute(CreateTable(table, if_not_exists=True))
                for index in table.indexes if with_indexes else ():
                    await connection.execute(CreateIndex(index, if_not_exists=True))
            new = self._upsert(tables.layout).on_conflict_do_nothing()
            await connection.execute(new, {"name": LAYOUT_NAME, "version": tables.LAYOUT})

    def exists(self) -> bool:
        """Whether the database file exists; True for a server. Readers call this first: `open` creates the file."""
        file = self._file()
        return file is None or file.exists()

    def _file(self) -> Path | None:
        is_file = self.url.get_backend_name() == "sqlite" and self.url.database not in (None, "", ":memory:")
        return Path(str(self.url.database)) if is_file else None

    async def close(self) -> None:
        await self._engine.dispose()

    async def lay_out(self) -> int:
        """Rebuild the tables in tables.FOLDED from the archive (table `events`), in one transaction, if another version
        of orch made them. Returns the number of sessions rebuilt completely. Raises HistoryError.

        If this version of orch cannot read an event of a session, the session gets only the rows of the events before
        this event.
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
                changes, problem = folded_until_unreadable(
                    session_id, shard, await _lines(connection, session_id, 1, 2**53)
                )
                if problem:
                    logger.warning("the history of %s cannot be rebuilt to its end: %s", session_id, problem)
                    last = select(func.max(tables.events.c.at_us)).where(tables.events.c.session_id == session_id)
                    changes.sessions[session_id]["last_us"] = await connection.scalar(last) or 0
                changes.events.clear()  # the archive keeps them
                await self._write_changes(connection, changes)
                done += not problem
        return done

    async def positions(self, streams: Sequence[str]) -> dict[str, Position]:
        """Return stream → its position (checkpoint). If a stream has no row, inserts a row with the stream's start."""
        async with self._engine.begin() as connection:
            rows = [{"stream": one, "ms": 0, "seq": 0, "session_id": "", "version": 0} for one in sorted(streams)]
            if rows:
                await connection.execute(self._upsert(tables.positions).on_conflict_do_nothing(), rows)
            found = await connection.execute(select(tables.positions).where(tables.positions.c.stream.in_(streams)))
            return {row.stream: Position(row.stream, row.seq, row.ms, row.session_id, row.version) for row in found}

    async def load(self, session_ids: Iterable[str]) -> dict[str, SessionHistory]:
        """Load the rows that the next events of these sessions may change. Leaves out sessions that have no rows."""
        wanted, turn, said = list(session_ids), tables.turns.c, tables.transcript.c
        async with self._engine.connect() as connection:
            found = [dict(row) for row in await _all(connection, tables.sessions, wanted)]
            turns = await _by_session(connection, tables.turns, wanted, turn.ended_us.is_(None))
            is_open = and_(said.speaker == "agent", said.outcome == "")
            speaking = await _by_session(connection, tables.transcript, wanted, is_open)
            calls = await _by_session(connection, tables.tool_calls, wanted, tables.tool_calls.c.outcome == "")
        return {
            name: SessionHistory(row, next(iter(turns[name]), None), speaking[name], calls[name])
            for row in found
            if (name := row["session_id"])
        }

    async def lines(self, session_id: str, first: int = 1, last: int = 2**53) -> list[bytes]:
        """Return a session's lines from the archive in SQL: versions `first` to `last` inclusive, in order."""
        async with self._engine.connect() as connection:
            return await _lines(connection, session_id, first, last)

    async def last_lines(self, session_ids: Sequence[str]) -> dict[str, bytes]:
        """Return session id → its last line in SQL (Redis may have later lines). Leaves out sessions unknown to SQL."""
        last, event_ = tables.sessions.c, tables.events.c
        query = select(event_.session_id, event_.line).where(
            event_.session_id == last.session_id,
            event_.version == last.version,
            last.session_id.in_(list(session_ids)),
        )
        async with self._engine.connect() as connection:
            return {row[0]: row[1].encode() for row in await connection.execute(query)}

    async def rows(self, query: Any) -> list[Any]:
        """Run a SQLAlchemy query and return its rows, for queries that this class does not have."""
        async with self._engine.connect() as connection:
            return [*(await connection.execute(query)).mappings()]

    async def archived(self) -> dict[str, int]:
        """Return session id → the last version that the history in SQL holds, for all sessions."""
        column = tables.events.c
        query = select(column.session_id, func.max(column.version)).group_by(column.session_id)
        async with self._engine.connect() as connection:
            return {row[0]: row[1] for row in await connection.execute(query.order_by(column.session_id))}

    async def ended_before(self, before_us: int) -> dict[str, int]:
        """Return session id → last version, for sessions that ended before a time; the oldest first."""
        column = tables.sessions.c
        query = select(column.session_id, column.version).where(column.ended_us < before_us)
        async with self._engine.connect() as connection:
            return {row[0]: row[1] for row in await connection.execute(query.order_by(column.ended_us))}

    async def silent_since(self, before_us: int) -> dict[str, int]:
        """Return session id → last version, for sessions that have not ended and whose last event is from before a
        time; the oldest first. Such a session is live, or Redis has lost it.
        """
        column = tables.sessions.c
        query = select(column.session_id, column.version).where(column.ended_us.is_(None), column.last_us < before_us)
        async with self._engine.connect() as connection:
            return {row[0]: row[1] for row in await connection.execute(query.order_by(column.last_us))}

    async def counts(self) -> dict[str, int]:
        """Return table → number of rows, for sessions, turns, events and dead letters."""
        kept = (tables.sessions, tables.turns, tables.events, tables.unroutable)
        async with self._engine.connect() as connection:
            return {t.name: int(await connection.scalar(select(func.count()).select_from(t)) or 0) for t in kept}

    async def write(
        self,
        moves: Sequence[PositionMove],
        changes: Changes,
        *,
        anew: Iterable[str] = (),
        dead_letters: Sequence[Row] = (),
    ) -> None:
        """Write positions, rows and dead letters in one transaction. `anew`: sessions whose rows are deleted first.

        Raises HistoryError, and PositionMovedError if a position is not at the expected place.
        """
        async with self._engine.begin() as connection:
            await self._move(connection, sorted(moves, key=lambda move: move.new.stream))
            for session_id in anew:
                await _forget(connection, session_id)
            await self._write_changes(connection, changes)
            await self._write_rows(connection, tables.unroutable, list(dead_letters), replaces=True)

    async def settle(self) -> None:
        """Wait until all committed rows would survive a power failure. Raises HistoryError, or TimeoutError if another
        program blocks this for SETTLE_S.
        """
        # PostgreSQL flushes to disk on commit
        if self._file() is not None and not await is_checkpointed(self._engine, "FULL", SETTLE_S):
            raise TimeoutError(
                f"{self._file()} cannot be brought to disk: another program, such as a database browser, has been "
                f"reading it for {SETTLE_S:g} s; close it, or try again"
            )

    async def overwrite(self) -> str:
        """Empty SQLite's write-ahead log, so that deleted rows are in no file any more. Returns why the log was not
        emptied; empty: it was emptied. Raises HistoryError.
        """
        if self._file() is None or await is_checkpointed(self._engine, "TRUNCATE", SETTLE_S):
            return ""
        return (
            f"{self._file()}-wal may still hold deleted words: another program, such as a database browser, has been "
            f"reading the history for {SETTLE_S:g} s; close it, and run the purge again"
        )

    async def forget(self, session_ids: Sequence[str]) -> None:
        """Delete sessions from all tables, including the archive."""
        async with self._engine.begin() as connection:
            for session_id in session_ids:
                await _forget(connection, session_id)

    async def dead_letters_before(self, before_ms: int) -> int:
        """Return the number of dead letters older than this time (milliseconds since 1970)."""
        query = select(func.count()).select_from(tables.unroutable).where(tables.unroutable.c.ms < before_ms)
        async with self._engine.connect() as connection:
            return int(await connection.scalar(query) or 0)

    async def forget_dead_letters(self, before_ms: int) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(delete(tables.unroutable).where(tables.unroutable.c.ms < before_ms))

    async def _move(self, connection: AsyncConnection, moves: Sequence[PositionMove]) -> None:
        """Write the new positions. Call this before all other writes of a transaction: all processes then lock rows in
        the same order, and no deadlock occurs. Raises PositionMovedError if a position is not at the expected place.
        """
        values = [self._moving.values(_moved(move)) for move in moves]
        if values and self.url.get_backend_name() == "sqlite":  # SQLite's driver sums the row counts of executemany
            changed = (await connection.exec_driver_sql(self._moving.sql, values)).rowcount
        else:
            changed = sum([(await connection.exec_driver_sql(self._moving.sql, one)).rowcount for one in values])
        if changed != len(moves):
            raise PositionMovedError(
                f"no longer at {', '.join(f'{m.expected.stream} {m.expected.seq}' for m in moves)}"
            )

    async def _write_changes(self, connection: AsyncConnection, changes: Changes) -> None:
        for table in (tables.events, *tables.FOLDED):
            rows = getattr(changes, table.name)
            may_change = isinstance(rows, dict)
            some = [*rows.values()] if may_change else rows
            await self._write_rows(connection, table, some, replaces=may_change)

    async def _write_rows(
        self, connection: AsyncConnection, table: Table, rows: Sequence[Row], *, replaces: bool = False
    ) -> None:
        """Insert rows; if `replaces`, upsert by primary key. Uses the driver directly: SQLAlchemy takes too long."""
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


class _Statement:
    """A compiled SQL statement. `values` takes the parameters of the statement from a row."""

    def __init__(self, engine: AsyncEngine, statement: Insert | Update) -> None:
        compiled = statement.compile(dialect=engine.dialect)
        self.sql = str(compiled)
        assert compiled.positiontup, "both drivers take values by their position"
        self._pick = itemgetter(*compiled.positiontup)

    def values(self, row: Row) -> tuple[Any, ...]:
        """Return the values of a row in the order of the SQL statement's parameters. Replaces NUL characters in texts,
        because PostgreSQL refuses them.
        """
        values: tuple[Any, ...] = self._pick(row)
        for value in values:
            if value.__class__ is str and "\0" in value:
                return tuple(one.replace("\0", "\ufffd") if isinstance(one, str) else one for one in values)
        return values


def _moved(move: PositionMove) -> Row:
    at, new = move.expected, move.new
    row = {"at_stream": new.stream, "at_ms": at.ms, "at_seq": at.seq}
    return row | {"ms": new.ms, "seq": new.seq, "session_id": new.session_id, "version": new.version}


async def _lines(connection: AsyncConnection, session_id: str, first: int, last: int) -> list[bytes]:
    column = tables.events.c
    query = select(column.line).where(column.session_id == session_id, column.version.between(first, last))
    return [line.encode() for line in await connection.scalars(query.order_by(column.version))]


async def _forget(connection: AsyncConnection, session_id: str) -> None:
    for table in (tables.events, *tables.FOLDED):
        await connection.execute(delete(table).where(table.c.session_id == session_id))


async def _by_session(
    connection: AsyncConnection, table: Table, session_ids: list[str], only: Any
) -> defaultdict[str, list[Row]]:
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in await _all(connection, table, session_ids, only):
        found[row["session_id"]].append(dict(row))
    return found


async def _all(connection: AsyncConnection, table: Table, session_ids: list[str], only: Any = None) -> list[Any]:
    found: list[Any] = []
    for start in range(0, len(session_ids), _ROWS_AT_ONCE):
        query = select(table).where(table.c.session_id.in_(session_ids[start : start + _ROWS_AT_ONCE]))
        found += (await connection.execute(query if only is None else query.where(only))).mappings()
    return found
