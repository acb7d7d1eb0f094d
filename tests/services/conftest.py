"""What the tests of the services share: real servers on free loopback ports, and a voice to be recognised."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from service_peers import Handler, Say, Serve

from orchestrator.reference.content import Content, load_content
from orchestrator.services.http_clients import open_session
from tests.media.speech import speak


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve any POST with a handler; gives the base URL."""
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> str:
        application = web.Application()
        application.router.add_post("/{path:.*}", handler)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}"

    yield start
    await asyncio.gather(*(runner.cleanup() for runner in runners))


@pytest.fixture(scope="session")
def content() -> Content:
    return load_content()


@pytest.fixture
def say() -> Say:
    """Speech as a microphone would give it: 16 kHz mono s16le, with silence before and after."""

    async def with_silence(text: str) -> bytes:
        silence = bytes(16_000 * 2 * 3 // 10)
        return silence + await asyncio.to_thread(speak, text) + silence

    return with_silence
