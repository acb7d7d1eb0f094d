"""`orch serve`: the service in the foreground. The golden log goes to standard output, everything else to stderr."""

import asyncio
import logging
import signal
import sys
from dataclasses import replace

from redis.exceptions import RedisError

from cli.terminal import run as run_loop
from cli.terminal import say
from orchestrator.app import Orchestrator
from orchestrator.runtime.embedded import NoRedisServerError
from orchestrator.runtime.node import UnusableRedisError
from orchestrator.services.ports import ServiceError
from orchestrator.settings import Settings, SettingsError


def run(host: str, port: int) -> int:
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    for talkative in ("aiohttp.access", "aioice.ice"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # of a collector that is down we say so once
    try:
        settings = replace(Settings.from_environment(), host=host, port=port)
        run_loop(_serve(settings))
    except (SettingsError, NoRedisServerError, UnusableRedisError, ServiceError, RedisError, OSError) as error:
        say(f"✗ orch serve cannot start: {error}")
        return 2
    return 0


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with Orchestrator(settings, print_line=_print) as service:
        say(f"orch is ready: open {service.url} and say hello (stop with Ctrl-C)")
        await stop.wait()
        say("stopping")


def _print(line: str) -> None:
    print(line, flush=True)
