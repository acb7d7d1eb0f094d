"""`orch console`: pages that show conversations step by step, in a process of their own."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from secrets import token_bytes
from typing import cast

from aiohttp import web

from cli.exits import OK
from cli.terminal import UsageError, say
from cli.terminal import run as run_loop
from orchestrator.console.access import ConsoleGuard, PublicAddressError, refuse_public
from orchestrator.console.library import Folder, Library
from orchestrator.console.server import Console
from orchestrator.gateway.access.credentials import Proxies
from orchestrator.gateway.access.setup import check_of
from orchestrator.gateway.origin import AllowedNames
from orchestrator.gateway.tls import tls
from orchestrator.settings import Settings
from orchestrator.web_names import is_loopback, url_of

LOOPBACK = "127.0.0.1"
NICE = 15
"""Below the service, so that many viewers do not delay calls on the same machine."""


def run(folder: str, host: str, port: int) -> int:
    """Serve until Ctrl-C. Raises UsageError, OSError and the errors of cli.store."""
    settings = Settings.from_environment()
    try:
        if not _has_keys(settings):
            refuse_public(host)
    except PublicAddressError as error:
        raise UsageError(str(error)) from error
    if folder and not Path(folder).exists():
        raise UsageError(f"{folder}: no such file or folder; name a recording or a folder of recordings (*.jsonl)")
    with suppress(KeyboardInterrupt):
        run_loop(_until_stopped(folder, host, port))
    return OK


def _has_keys(settings: Settings) -> bool:
    """Whether readers are checked. Otherwise the console is for this machine alone."""
    return settings.auth == "keys" and bool(settings.auth_keys)


async def _until_stopped(folder: str, host: str, port: int) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with _serving(folder, host, port) as url:
        say(f"the console of {folder or 'the service'} is ready: open {url} (stop with Ctrl-C)")
        await stop.wait()


async def _beside_a_service() -> None:
    """Serve until standard input closes: the service has ended. Its first line is the port to try first."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    port = int(await reader.readline() or 0)
    async with AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(_serving("", LOOPBACK, port))
        except OSError:  # the port is in use
            url = await stack.enter_async_context(_serving("", LOOPBACK, 0))
        print(url, flush=True)
        await reader.read()


@asynccontextmanager
async def _serving(folder: str, host: str, port: int) -> AsyncIterator[str]:
    """Serve the console; yields its URL. Raises OSError, SettingsError."""
    os.nice(NICE)
    settings = Settings.from_environment()
    async with AsyncExitStack() as stack:
        library: Library = Folder(Path(folder))
        secret = token_bytes(32)
        if not folder:
            library, secret = await stack.enter_async_context(_stored())
        guard = ConsoleGuard()
        if _has_keys(settings):
            check = check_of(settings, None)
            stack.push_async_callback(check.close)
            guard = ConsoleGuard(check.authenticate, secret, Proxies(settings.trusted_proxies))
        names = AllowedNames(settings.allowed_hosts, settings.allowed_origins, is_private=is_loopback(host))
        runner = web.AppRunner(Console(library, guard, names).app(), shutdown_timeout=0.5)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        context = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            context = await stack.enter_async_context(tls(settings.tls_cert, settings.tls_key))
        await web.TCPSite(runner, host, port, ssl_context=context).start()
        name, used, *_ = runner.addresses[0]
        yield f"{url_of('https' if context else 'http', name, used)}/"


@asynccontextmanager
async def _stored() -> AsyncIterator[tuple[Library, bytes]]:
    """The sessions of the service: of its Redis, and of its history if there is one; and the secret of its cookies."""
    from cli.store import NoHistoryError, history, store  # a folder needs neither
    from orchestrator.console.stored import Stored

    async with AsyncExitStack() as stack:
        archive = None
        with suppress(NoHistoryError):  # a service that has never run
            archive = await stack.enter_async_context(history())
        redis, keys = await stack.enter_async_context(store())
        yield Stored(redis, keys, archive), cast("bytes | None", await redis.get(keys.secret)) or token_bytes(32)


if __name__ == "__main__":
    run_loop(_beside_a_service())
