"""A process of our own beside the service: a module of ours, spoken to over its input, and ended by closing that."""

import asyncio
import contextlib
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

logger = logging.getLogger(__name__)

_ROOT = str(Path(__file__).parents[1])


async def spawn(module: str) -> Process:
    """Start it, with pipes for input and output. Raises OSError.

    -P and an explicit path: a file called like one of ours in the current directory must not be imported.
    """
    path = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH", ""))))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module),
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # a Ctrl-C is for the service, which ends it
    )


async def end(process: Process, name: str, within_s: float) -> None:
    """Close its input and give it so long to be done with what it has in hand; then it is killed."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        logger.warning("%s did not end within %g s and is killed", name, within_s)
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            process.kill()
        await process.wait()
