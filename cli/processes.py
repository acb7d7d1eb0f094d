"""`orch serve --processes N`: the supervisor, which starts the processes; all of them listen at one port.

The supervisor runs their common parts: the embedded Redis, the history and the console. A process that ends or hangs is
started again. SIGHUP restarts all, one after the other: each hands its calls over to the rest before it ends.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

from cli.children import Children
from cli.console_process import HIGHEST_PORT, ConsoleProcess
from cli.serve import make_service
from orchestrator.gateway.door import cannot_listen
from orchestrator.runtime.history.supervisor import HistoryKeeper
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from orchestrator.runtime.redis.keys import Keys
from orchestrator.settings import Settings, SettingsError
from orchestrator.siblings.loads import make_loads
from orchestrator.siblings.siblings import Facts
from orchestrator.web_names import LOOPBACK, url_of

WAITING = 512
"""Connections that may wait at the common port."""


async def serve_in_processes(count: int, agent: str, given: dict[str, Any], say: Callable[[str], None]) -> None:
    """Run the service in `count` processes until SIGINT or SIGTERM. Raises what its start raises in a process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    running: list[Children] = []

    def restart() -> None:
        for one in running:  # none while the common parts start: nothing that could be restarted
            one.restart()

    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        is_terminal = sys.stdin is not None and sys.stdin.isatty()  # it is closed: end, as other programs do
        loop.add_signal_handler(signal.SIGHUP, stop.set if is_terminal else restart)
    settings = (await make_service(agent, given)).settings
    _check(settings, count)
    async with _shared(count, agent, given, settings) as service:
        running.append(service)
        if await service.start(stop):
            say(f"orch is ready: open {service.url} and say hello ({count} processes; stop with Ctrl-C)")
            await stop.wait()
        say("stopping")


def _check(settings: Settings, count: int) -> None:
    if not settings.address and (settings.is_everywhere or not (settings.is_private or settings.host not in LOOPBACK)):
        raise SettingsError(
            "ORCH_ADDRESS is missing: each of several processes has a port of its own for callers who come back; say "
            "under which address of this machine they reach it"
        )
    if settings.port and settings.port + 1 + count > HIGHEST_PORT:
        raise SettingsError(
            f"ORCH_PORT={settings.port} is too high for {count} processes: each has a port of its own, from the second "
            "after it on"
        )


@asynccontextmanager
async def _shared(count: int, agent: str, given: dict[str, Any], settings: Settings) -> AsyncIterator[Children]:
    """What all processes need once, and the processes, not started yet."""
    async with AsyncExitStack() as stack:
        door = stack.enter_context(_listener(settings.host, settings.port))
        operators = None
        if settings.operators:
            at = urlsplit(f"//{settings.operators}")
            operators = stack.enter_context(_listener(at.hostname or "", at.port or 0))
        loads = make_loads(count)
        stack.callback(os.close, loads)
        embedded = EmbeddedRedis(settings.data_dir, settings.redis_memory_mb, alone=True)
        redis_url = settings.redis_url or await stack.enter_async_context(embedded)
        host, port = door.getsockname()[:2]
        url = url_of("https" if settings.tls_cert else "http", host, port)
        facts = [
            Facts(
                number=number,
                door=door.fileno(),
                operators=operators.fileno() if operators else -1,
                loads=loads,
                origins=_origins(settings, url),
                agent=agent,
                given={**given, "redis_url": redis_url, "port": settings.port + 1 + number if settings.port else 0},
            )
            for number in range(1, count + 1)
        ]
        console = await stack.enter_async_context(ConsoleProcess(settings))
        service = Children(facts, url, console)
        service.history = HistoryKeeper(
            redis_url, Keys(), settings.sql_url, settings.data_dir, service.owned, service.counters
        )
        stack.push_async_callback(service.history.stop)
        await service.history.start()
        stack.push_async_callback(service.stop)
        yield service


def _origins(settings: Settings, url: str) -> list[str]:
    """Origins of the pages that are loaded through the common port: from there they may connect to each process."""
    at = urlsplit(url)
    names = LOOPBACK if at.hostname in LOOPBACK else (at.hostname or "",)
    named = urlsplit(settings.address)  # it may have a path
    return [
        *(url_of(at.scheme, name, at.port or 0) for name in names),
        *([f"{named.scheme}://{named.netloc}"] if settings.address else []),
    ]


@contextmanager
def _listener(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there, for all processes. Raises OSError."""
    is_dual = not host and socket.has_dualstack_ipv6()
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family = socket.AF_INET6 if is_dual else found[0][0]
        made = socket.create_server((host, port), family=family, backlog=WAITING, dualstack_ipv6=is_dual)
    except OSError as error:
        raise cannot_listen(host, port, error) from error
    made.setblocking(False)
    with made:
        yield made
