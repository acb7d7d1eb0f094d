"""Fixtures of the runtime tests: one real Redis per worker, a key prefix per test, nodes that are always stopped."""

import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from orchestrator.runtime.node import Node
from orchestrator.runtime.redis.connection import connect
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from orchestrator.runtime.redis.keys import Keys
from orchestrator.session.policy import Policy
from tests.runtime.laws import check_laws
from tests.runtime.postgres_server import Postgres, binaries, postgres
from tests.runtime.redis_cluster import Cluster
from tests.runtime.redis_server import Server
from tests.runtime.support import Running, Stubs, Watch, soon_in_redis

logging.getLogger("faststream").setLevel(logging.WARNING)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def redis_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a real Redis, one per worker."""
    folder: Path = tmp_path_factory.mktemp("redis")
    async with EmbeddedRedis(folder) as url:
        yield url


@dataclass
class Place:
    """A corner of Redis that belongs to one test."""

    url: str
    keys: Keys
    redis: Redis

    async def dead_letters(self, stream: str, count: int = 1) -> list[tuple[str, bytes]]:
        """Reason and entry of each, as soon as there are so many."""

        async def there() -> bool:
            return bool(await self.redis.xlen(stream) >= count)

        await soon_in_redis(there)
        return [(fields[b"reason"].decode(), fields[b"e"]) for _, fields in await self.redis.xrange(stream)]


@pytest.fixture
async def place(redis_url: str) -> AsyncIterator[Place]:
    """A prefix of one's own; when the test is over, everything under it must obey the laws."""
    keys = Keys(shards=4, prefix=f"test-{uuid4().hex[:8]}")
    async with connect(redis_url) as redis:  # redis-py's defaults swallow a timeout now and then: a test would hang
        yield Place(redis_url, keys, redis)
        await check_laws(redis, keys)


MakeNode = Callable[..., Awaitable[Running]]


@pytest.fixture
async def make_node(place: Place) -> AsyncIterator[MakeNode]:
    """Starts nodes over scripted ports; all are stopped when the test is over."""
    started: list[Node] = []

    async def make(*, url: str = "", policy: Policy | None = None, lease_ms: int = 3_000) -> Running:
        stubs, watch = Stubs(), Watch()
        node = Node(
            url or place.url, stubs.services(), observer=watch, keys=place.keys, policy=policy, lease_ms=lease_ms
        )
        started.append(node)
        await node.start()
        return Running(node, stubs, watch)

    yield make
    for node in started:
        if not _stopped(node):
            await node.stop()


def _stopped(node: Any) -> bool:
    return bool(node._stopping)


@pytest.fixture
async def running(make_node: MakeNode) -> Running:
    """One node."""
    return await make_node()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A Redis of the test's own, to be killed."""
    with tempfile.TemporaryDirectory(prefix="orch-kill-") as folder:
        server = Server(folder)
        await server.start()
        yield server
        await server.kill()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A Redis Cluster of the test's own."""
    async with Cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def corner(place: Place, make_node: MakeNode) -> AsyncIterator[tuple[Place, Running]]:
    """A node and what it writes, of which the test breaks something: nothing of it is left for the laws."""
    running = await make_node()
    yield place, running
    await running.node.stop()
    await place.redis.delete(*[key async for key in place.redis.scan_iter(f"{place.keys.prefix}:*")])


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgres]:
    """A server; each test makes its own database."""
    found = binaries()
    if found is None:
        pytest.skip("no PostgreSQL server under /usr/lib/postgresql; install it with: apt-get install postgresql")
    with postgres(found) as running:
        yield running
