"""`orch serve`: the service in the foreground. The golden log goes to standard output, everything else to stderr."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from cli.agents import load, service_of
from cli.console_process import ConsoleProcess
from cli.exits import OK, UNUSABLE
from cli.output import LogWriter, is_missing, write_of
from cli.process import raise_file_limit
from cli.terminal import UsageError, words
from cli.terminal import run as run_loop
from orchestrator.app import Orchestrator
from orchestrator.runtime.node import RedisSetupError
from orchestrator.runtime.redis.embedded import NoRedisServerError
from orchestrator.safe_log import SAFE_LOG
from orchestrator.services.failures import ServiceError
from orchestrator.settings import Settings, SettingsError, environment

logger = logging.getLogger(__name__)


CANNOT_START = (
    UsageError,
    SettingsError,
    NoRedisServerError,
    RedisSetupError,
    ServiceError,
    RedisError,
    RedisClusterException,
    OSError,
)
"""What a start raises for mistakes of the user and for things that are missing."""


def run(
    agent: str, host: str, port: int | None, model: str = "", *, processes: int = 1, is_reloaded: bool = False
) -> int:
    """Run the service until Ctrl-C. An empty host, no port and an empty model are those of the settings, or of the
    agent's.
    """
    if agent and model:
        raise UsageError(f"--model answers in place of the demo agent, and {agent} answers itself: give one of both")
    given: dict[str, Any] = {**({"host": host} if host else {}), **({} if port is None else {"port": port})}
    given |= {"model_url": model} if model else {}
    if is_reloaded and processes > 1:
        raise UsageError("--reload is for one process: leave out --processes")
    if is_reloaded:
        return _reloaded(agent, given)
    raise_file_limit()
    log = LogWriter()
    start_logging(log)
    try:
        os.environ.update({name: value for name, value in environment().items() if name not in os.environ})
        if processes > 1:
            from cli.processes import serve_in_processes

            run_loop(serve_in_processes(processes, agent, given, log.say))
        else:
            run_loop(_serve(agent, given, log.say))
    except CANNOT_START as error:
        log.say(f"✗ orch serve cannot start: {words(error)}")
        return UNUSABLE
    finally:
        log.close()
    return OK


def start_logging(log: LogWriter, of: str = "") -> None:
    """Send all log records there; `of` names the process in each line."""
    form = f"%(asctime)s{of} %(levelname)-7s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, handlers=[log], format=form)
    log.addFilter(SAFE_LOG)
    for talkative in ("aiohttp.access", "aioice.ice"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # of a collector that is down we say so once


def _reloaded(agent: str, given: dict[str, Any]) -> int:
    if not agent:
        raise UsageError("--reload needs the agent: orch serve my_agent:agent --reload")
    from cli.reloading import serve_and_reload

    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    return serve_and_reload([*options, "--", agent])


async def make_service(agent: str, given: dict[str, Any]) -> Orchestrator:
    """The service, with what the command line says; it prints the golden log. Raises UsageError, SettingsError."""
    service = await _service(agent, given)
    print_line = None if is_missing(sys.stdout) else write_of(sys.stdout)
    if print_line is None:
        logger.warning("standard output is closed: the golden log is not printed")
    service.print_line = service.print_line or print_line
    return service


async def _service(agent: str, given: dict[str, Any]) -> Orchestrator:
    if not agent:
        return Orchestrator(replace(Settings.from_environment(), **given))
    thing = load(agent)
    settings = Settings() if isinstance(thing, Orchestrator) else replace(Settings.from_environment(), **given)
    service = await service_of(thing, agent, settings)
    service.settings = replace(service.settings, **given)
    return service


async def _serve(agent: str, given: dict[str, Any], say: Callable[[str], None]) -> None:
    """Serve until the first signal. A signal before the service is ready cancels the start, such as that of a port that
    never opens.
    """
    ready, stop = asyncio.Event(), asyncio.Event()

    async def serving() -> None:
        service = await make_service(agent, given)
        settings = service.settings
        console = ConsoleProcess(settings)
        service.console = console.url if settings.is_private else None
        async with console, service:
            ready.set()
            say(f"orch is ready: open {service.url} and say hello (stop with Ctrl-C)")
            await stop.wait()
            say("stopping")

    def stopping() -> None:
        if not (stop.is_set() or ready.is_set()):
            task.cancel()
        stop.set()

    task = asyncio.create_task(serving(), name="serve")
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stopping)
    try:
        await task
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        say("stopped before it was ready")
