"""Fixtures of the gateway tests: a real Redis, a node behind a real HTTP server, and the talk page in a browser."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import aioice.ice
import pytest
import pytest_asyncio
from aiohttp import web

from events.envelope import Event
from orchestrator.gateway.server import Gateway
from orchestrator.media.settings import MediaSettings
from orchestrator.runtime.live_session import LiveSession
from orchestrator.session.policy import Policy
from projections.golden_log import GoldenLog
from tests.browser.chromium import Chromium
from tests.door import joining
from tests.gateway.talk_page_server import PageServer, page_server
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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_browser() -> AsyncIterator[Chromium]:
    """One browser for all tests of a module about the talk page; it hears its microphone as it is."""
    async with Chromium(raw_microphone=True) as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PageServer]:
    """Serves the talk page; the test is its `/orchestrate`. Calls use the loopback, which every machine has."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda **_: ["127.0.0.1"])
    async with page_server() as running:
        yield running
