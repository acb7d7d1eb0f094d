"""Reading the service's Redis from the command line: ORCH_REDIS_URL, or the embedded one of the data directory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from redis.asyncio import Redis
from redis.exceptions import RedisClusterException, RedisError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cli.terminal import words
from events.codec import decode
from events.inputs import SessionOpened
from events.recording import Header, dump
from orchestrator.runtime.redis.connection import connect
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import UnknownSessionError, keys_of, read_lines
from orchestrator.settings import Settings
from projections.history.store import BadDatabaseError, History, database_url

PATIENCE_S = 5.0
_WHERE = "ORCH_REDIS_URL says where it is; without, it is the embedded server of ORCH_DATA_DIR"


@asynccontextmanager
async def store() -> AsyncIterator[tuple[Redis, Keys]]:
    """A connection and the layout of the keys. A service that is running is joined, not disturbed."""
    settings = Settings.from_environment()
    async with AsyncExitStack() as stack:
        url = settings.redis_url or await stack.enter_async_context(EmbeddedRedis(settings.data_dir))
        redis = await stack.enter_async_context(connect(url))
        yield redis, await _keys(redis)


async def _keys(redis: Redis) -> Keys:
    """The first question of every command. Raises UnusableRedisError where there is no answer."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await keys_of(redis)
    except TimeoutError as error:
        raise UnusableRedisError(f"Redis does not answer within {PATIENCE_S:g} s; {_WHERE}") from error
    except (RedisError, RedisClusterException) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise UnusableRedisError(f"Redis cannot be used: {reason}; {_WHERE}") from error


class UnusableRedisError(Exception):
    """Redis cannot be reached or asked; the message says what to look at."""


class NoHistoryError(LookupError):
    """There is no history yet, or it is elsewhere; the message says what to do."""


class UnusableHistoryError(Exception):
    """The history is away, full, broken or held by another program; the message says which and what to do."""


@asynccontextmanager
async def history() -> AsyncIterator[History]:
    """The database of the history. Raises NoHistoryError, BadDatabaseError, UnusableHistoryError."""
    settings = Settings.from_environment()
    try:
        found = History(database_url(settings.sql_url, settings.data_dir))
    except BadDatabaseError as error:
        raise BadDatabaseError(f"ORCH_SQL_URL: {error}") from error
    where = found.url.render_as_string()
    if not found.exists():
        raise NoHistoryError(f"no history at {where}: `orch serve` writes it (ORCH_SQL_URL)")
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(found)
        except OSError as error:
            raise UnusableHistoryError(f"the history at {where} cannot be reached: {words(error)}") from error
        except SQLAlchemyError as error:
            raise UnusableHistoryError(f"the history at {where} cannot be used: {_reason(error)}") from error
        try:
            yield found
        except SQLAlchemyError as error:
            raise UnusableHistoryError(f"the history at {where} cannot be used: {_reason(error)}") from error


def _reason(error: SQLAlchemyError) -> str:
    """The database's own words, without the query, and what to do where another program is in the way."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    reason = " ".join(str(cause).split()) or type(cause).__name__
    if "locked" in reason or "busy" in reason:
        return f"{reason}; another program, such as a database browser or a backup, holds it: close it, or try again"
    return reason


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
