"""Fixtures of the gateway tests: a real Redis, and a node behind a real HTTP server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from events.envelope import Event
from orchestrator.gateway.server import Gateway
from orchestrator.media.settings import MediaSettings
from orchestrator.runtime.live_session import LiveSession
from orchestrator.session.policy import Policy
from projections.golden_log import GoldenLog
from tests.door import joining
from tests.gateway.talker import Service, Talker
from tests.runtime.conftest import MakeNode, make_node, place  # noqa: F401 - fixtures
from tests.runtime.conftest import redis_url as redis_url

Serve = Callable[..., Awaitable[Service]]
LOOPBACK = MediaSettings(ice_host_addresses=("127.0.0.1",))


@pytest.fixture
async def serve(make_node: MakeNode) -> AsyncIterator[Serve]:  # noqa: F811
    """Starts nodes behind HTTP servers on free ports; stops the servers, then the nodes."""
    runners: list[web.AppRunner] = []

    async def start(
        redis_url: str = "",
        policy: Policy | None = None,
        media: MediaSettings = LOOPBACK,
        **options: Any,
    ) -> Service:
        running = await make_node(url=redis_url, policy=policy)
        golden = GoldenLog()

        def show(live: LiveSession, event: Event) -> None:
            if live.client is not None:
                live.client.committed(event, golden.line(event))

        running.watch.on_commit = show
        gateway = Gateway(running.node, running.stubs.services(), media=media, **options)
        runner = web.AppRunner(gateway.app(), shutdown_timeout=5.0)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return Service(running, runner, f"http://127.0.0.1:{runner.addresses[0][1]}")

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def service(serve: Serve) -> Service:
    return await serve()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def call(http: aiohttp.ClientSession, service: Service) -> Callable[..., Awaitable[Talker]]:
    """Connects clients to the service."""

    async def connect(headers: dict[str, str] | None = None, **query: str) -> Talker:
        socket = await http.ws_connect(f"{service.url}/orchestrate", **joining(query), headers=headers or {})
        return Talker(socket)

    return connect
