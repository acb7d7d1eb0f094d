"""Opens connections to the database of the history, and writes SQLite's write-ahead log (WAL) into its file."""

import asyncio
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
BUSY_MS = 5_000
"""How long a statement waits for a lock that another connection holds, in milliseconds."""


class BadDatabaseError(ValueError):
    """The URL names no database that orch can use; the message says what to do."""


def database_url(url: str, data_dir: Path) -> URL:
    """Parse the value of ORCH_SQL_URL. If the value is empty, the database is the file history.db in the data
    directory. Raises BadDatabaseError if orch cannot use the database.
    """
    try:
        parsed = make_url(url) if url else URL.create("sqlite", database=str(data_dir / "history.db"))
    except ArgumentError as error:
        raise BadDatabaseError(f"{error}; write it as postgresql://user@host/name") from error
    driver = _DRIVERS.get(parsed.drivername, parsed.drivername)
    if driver not in _DRIVERS.values():
        raise BadDatabaseError(f"{parsed.drivername}: the history can be kept in postgresql://… or sqlite:///…")
    if parsed.get_backend_name() == "sqlite" and (parsed.database or "").startswith("~"):
        parsed = parsed.set(database=str(Path(parsed.database or "").expanduser()))
    return parsed.set(drivername=driver)


def engine_for(url: URL) -> AsyncEngine:
    """Create the engine that connects to a database. Raises BadDatabaseError if the driver is not installed."""
    try:
        engine = create_async_engine(
            url, pool_size=2, hide_parameters=True, pool_pre_ping=url.get_backend_name() == "postgresql"
        )
    except ModuleNotFoundError as error:
        raise BadDatabaseError(
            f"no driver for {url.drivername}: install it with `pip install orch-voice[postgres]`"
        ) from error
    except NoSuchModuleError as error:
        raise BadDatabaseError(str(error)) from error
    if url.get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", prepare_sqlite)
    return engine


def prepare_sqlite(connection: Any, _: object) -> None:
    """Set up a new SQLite connection: readers never wait for the writer (WAL), a commit does not flush to disk
    (`History.settle` does), and deleted rows are overwritten with zeros.
    """
    # A flush would slow down the Redis on the same disk. A power failure may lose the last rows together with their
    # position (checkpoint): their events are projected again. Deleted rows hold users' words.
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON", f"busy_timeout={BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


async def is_checkpointed(engine: AsyncEngine, mode: Literal["FULL", "TRUNCATE"], within_s: float) -> bool:
    """Write SQLite's WAL into the database file, on disk; with TRUNCATE, also empty the WAL. Returns False if another
    connection has blocked this for `within_s` seconds.
    """
    checkpoint, loop = text(f"PRAGMA wal_checkpoint({mode})"), asyncio.get_running_loop()
    deadline = loop.time() + within_s
    async with engine.connect() as connection:
        # Try again and again instead: a checkpoint that waits for a reader keeps all writers out.
        await connection.execute(text("PRAGMA busy_timeout=0"))
        while (found := (await connection.execute(checkpoint)).one())[0] and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await connection.execute(text(f"PRAGMA busy_timeout={BUSY_MS}"))
    return not found[0]  # 1: another connection blocks it
