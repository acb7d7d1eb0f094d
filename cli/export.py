"""`orch export`: a session's log as a recording that needs no service to be replayed."""

import sys
from pathlib import Path

from cli.store import store
from cli.terminal import run as run_loop
from cli.terminal import say
from events.codec import decode
from events.inputs import SessionOpened
from events.recording import Header, dump
from orchestrator.runtime.logs import UnknownSessionError, read_lines


def run(session_id: str, output: str) -> int:
    try:
        data = run_loop(recording_of(session_id))
    except UnknownSessionError as error:
        say(f"✗ {error}")
        return 2
    if output == "-":
        sys.stdout.buffer.write(data)
    else:
        Path(output).write_bytes(data)
        say(f"wrote {output}; replay it with: orch replay {output}")
    return 0


async def recording_of(session_id: str) -> bytes:
    """The bytes of a session's recording. Raises UnknownSessionError."""
    async with store() as (redis, keys):
        lines = await read_lines(redis, keys, session_id)
    opened = decode(lines[0])
    version = opened.reducer_version if isinstance(opened, SessionOpened) else ""
    return dump(Header(reducer_version=version), lines)
