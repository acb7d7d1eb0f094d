"""Reading the service's Redis from the command line: ORCH_REDIS_URL, or the embedded one of the data directory."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from redis.asyncio import Redis

from orchestrator.runtime.connection import connect
from orchestrator.runtime.embedded import EmbeddedRedis
from orchestrator.runtime.keys import Keys
from orchestrator.runtime.logs import keys_of
from orchestrator.settings import Settings


@asynccontextmanager
async def store() -> AsyncIterator[tuple[Redis, Keys]]:
    """A connection and the layout of the keys. A service that is running is joined, not disturbed."""
    settings = Settings.from_environment()
    async with AsyncExitStack() as stack:
        url = settings.redis_url or await stack.enter_async_context(EmbeddedRedis(settings.data_dir))
        redis = await stack.enter_async_context(connect(url))
        yield redis, await keys_of(redis)
