"""The console on a free port, for the tests of its JSON and of its pages."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import pytest
from aiohttp import web

from orchestrator.console.library import Folder, Library
from orchestrator.console.server import Console

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
HOST = "127.0.0.1"


@asynccontextmanager
async def serving(
    library: Library, port: int = 0, look: Callable[[web.Request], None] | None = None
) -> AsyncIterator[str]:
    """Serve a library; yields the URL of the console. `look` sees each request."""
    app = Console(library).app()
    if look is not None:

        @web.middleware
        async def seen(request: web.Request, handler: Callable) -> web.StreamResponse:
            look(request)
            return await handler(request)

        app.middlewares.insert(0, seen)
    async with served(app, port) as url:
        yield url


@asynccontextmanager
async def served(app: web.Application, port: int = 0) -> AsyncIterator[str]:
    """Serve an application; yields its URL."""
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@cache
def _folder() -> Folder:
    """Shared: it keeps what it has read."""
    return Folder(FIXTURES)


@pytest.fixture
async def console() -> AsyncIterator[str]:
    """The console of the fixtures."""
    async with serving(_folder()) as url:
        yield url
