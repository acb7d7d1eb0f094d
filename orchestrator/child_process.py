"""Runs an orch module as a child process of the service. Closing the child's standard input ends it."""

import asyncio
import contextlib
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path

from orchestrator.teardown import end_within

logger = logging.getLogger(__name__)

READ_BYTES = 16_384
TOGETHER_S = 0.1
"""What arrives within this time is one record: Python writes a traceback line by line."""
_reading: set[asyncio.Task[None]] = set()
_ROOT = str(Path(__file__).parents[1])


_NEEDED = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"),
    *("VIRTUAL_ENV", "LC_*", "LD_*", "DYLD_*", "PYTHON*", "COVERAGE_*", "SSL_CERT_*"),
)
"""Environment variables that every Python program needs."""


def environment(*also: str) -> dict[str, str]:
    """The part of this process's environment that a child needs: without settings and their secrets.

    `also` names more variables for this child; `PG*` means all that begin with PG.
    """
    wanted = (*_NEEDED, *also)
    beginnings = tuple(one.removesuffix("*") for one in wanted if one.endswith("*"))
    return {name: value for name, value in os.environ.items() if name in wanted or name.startswith(beginnings)}


async def spawn(module: str, *also: str, variables: Mapping[str, str] | None = None) -> Process:
    """Start a module with pipes for input and output. Raises OSError.

    `also`: see `environment`. `variables` are set in the child's environment: other users cannot read it, as they can
    read arguments.

    -P and an explicit path: a file in the current directory must not replace an orch module of the same name.
    """
    path = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH", ""))))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**environment(*also), **(variables or {}), "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C must reach only the service, which then ends the child
    )
    assert process.stderr is not None
    reading = asyncio.create_task(_log_errors(module, process.stderr), name=f"{module}:errors")
    _reading.add(reading)
    reading.add_done_callback(_reading.discard)
    return process


async def _log_errors(module: str, errors: asyncio.StreamReader) -> None:
    """Log the child's standard error. The child must not inherit the service's: an unread pipe would block it.

    Lines that arrive together are one record, so that the log's limit on repetitions does not cut a traceback.
    """
    rest = b""
    while chunk := await _together(errors):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) >= READ_BYTES:
            lines, rest = [*lines, rest], b""
        if lines:
            logger.warning("%s: %s", module, b"\n".join(lines).decode(errors="replace"))
    if rest:
        logger.warning("%s: %s", module, rest.decode(errors="replace"))


async def _together(errors: asyncio.StreamReader) -> bytes:
    """What arrives within TOGETHER_S of its first byte; empty: the end."""
    found = await errors.read(READ_BYTES)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TOGETHER_S):
            while found and len(found) < READ_BYTES and (more := await errors.read(READ_BYTES - len(found))):
                found += more
    return found


async def end(process: Process, name: str, within_s: float) -> None:
    """Close the child's standard input; kill the child if it does not end within `within_s` seconds."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        logger.warning("%s did not end within %g s and is killed", name, within_s)
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            process.kill()
        await end_within(f"{name}, killed,", process.wait())
