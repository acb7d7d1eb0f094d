"""`orch sessions`: which conversations are here."""

from cli.store import store
from cli.terminal import run as run_loop
from cli.terminal import say
from orchestrator.runtime.logs import list_sessions


def run() -> int:
    found = run_loop(_list())
    for session_id, live in found.items():
        print(f"{session_id}\t{'live' if live else 'ended'}")
    if not found:
        say("no sessions yet; start one at the console page of `orch serve`, or with `orch chat`")
    return 0


async def _list() -> dict[str, bool]:
    async with store() as (redis, keys):
        return await list_sessions(redis, keys)
