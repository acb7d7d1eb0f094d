"""Serves /orchestrate alone, on any free port: for the services beside which bench/calls.py measures orch.

Imports nothing of orch: those of bench/peers/ run in environments of their own.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable

from aiohttp import web


async def serve(app: web.Application, orchestrate: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
    """Say the address as `orch serve` does, and serve until the process ends."""
    app.router.add_get("/orchestrate", orchestrate)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"open {site.name}", file=sys.stderr, flush=True)
    await asyncio.Event().wait()
