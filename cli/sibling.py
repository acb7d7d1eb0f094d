"""The main program of one of the processes of `orch serve --processes N`; cli/processes.py starts it."""

import asyncio
import os
import signal
import sys
from socket import socket

from cli.exits import OK, UNUSABLE
from cli.output import LogWriter
from cli.process import prepare_signals
from cli.serve import CANNOT_START, make_service, start_logging
from cli.terminal import prepare_streams, words
from cli.terminal import run as run_loop
from orchestrator.siblings.lines import JsonLinesConnection
from orchestrator.siblings.siblings import Facts, Siblings


def main() -> None:
    """Run the service until the supervisor says stop, or has ended. The argument: the inherited socket's number."""
    prepare_streams()
    prepare_signals()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a group of processes may get them together
        signal.signal(name, signal.SIG_IGN)
    log = LogWriter()
    try:
        raise SystemExit(run_loop(_run(int(sys.argv[1]), log)))
    finally:
        log.close()


async def _run(file: int, log: LogWriter) -> int:
    lines = await JsonLinesConnection.over(socket(fileno=file))
    told = await lines.hear()
    if told is None:  # the supervisor has ended
        return UNUSABLE
    facts = Facts(**told)
    for inherited in (file, facts.door, facts.operators, facts.loads):
        if inherited >= 0:
            os.set_inheritable(inherited, False)  # else a process that outlives this one would keep the port
    start_logging(log, f" {facts.number}")
    siblings = Siblings(facts, lines)
    listening = asyncio.create_task(siblings.listen(), name="supervisor")
    try:
        service = await make_service(facts.agent, facts.given)
        service.siblings = siblings
        service.console = siblings.console if service.settings.is_private else None
        async with service:
            siblings.say(ready=service.node.address)
            await siblings.stopping.wait()
    except CANNOT_START as error:
        siblings.say(error=words(error))
        return UNUSABLE
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await siblings.close()
    return OK
