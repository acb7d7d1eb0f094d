"""Reading the service's Redis from the command line: ORCH_REDIS_URL, or the embedded one of the data directory."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from redis.asyncio import Redis

from events.codec import decode
from events.inputs import SessionOpened
from events.recording import Header, dump
from orchestrator.runtime.connection import connect
from orchestrator.runtime.embedded import EmbeddedRedis
from orchestrator.runtime.keys import Keys
from orchestrator.runtime.logs import UnknownSessionError, keys_of, read_lines
from orchestrator.settings import Settings
from projections.history.store import History, database_url


@asynccontextmanager
async def store() -> AsyncIterator[tuple[Redis, Keys]]:
    """A connection and the layout of the keys. A service that is running is joined, not disturbed."""
    settings = Settings.from_environment()
    async with AsyncExitStack() as stack:
        url = settings.redis_url or await stack.enter_async_context(EmbeddedRedis(settings.data_dir))
        redis = await stack.enter_async_context(connect(url))
        yield redis, await keys_of(redis)


class NoHistoryError(LookupError):
    """There is no history yet, or it is elsewhere; the message says what to do."""


@asynccontextmanager
async def history() -> AsyncIterator[History]:
    """The database of the history. Raises NoHistoryError, BadDatabaseError, HistoryError."""
    settings = Settings.from_environment()
    found = History(database_url(settings.sql_url, settings.data_dir))
    if not found.exists():
        raise NoHistoryError(f"no history at {found.url.render_as_string()}: `orch serve` writes it (ORCH_SQL_URL)")
    async with found:
        yield found


async def recording_of(session_id: str) -> bytes:
    """The bytes of a session's recording, from its log or from the archive. Raises UnknownSessionError."""
    try:
        async with store() as (redis, keys):
            lines = await read_lines(redis, keys, session_id)
    except UnknownSessionError:
        if not (lines := await _archived(session_id)):
            raise
    opened = decode(lines[0])
    version = opened.reducer_version if isinstance(opened, SessionOpened) else ""
    return dump(Header(reducer_version=version), lines)


async def _archived(session_id: str) -> list[bytes]:
    try:
        async with history() as found:
            return await found.lines(session_id)
    except NoHistoryError:
        return []
