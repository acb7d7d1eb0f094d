"""`orch sessions`: which conversations are here, in Redis or in the archive."""

from cli.store import NoHistoryError, history, store
from cli.terminal import run as run_loop
from cli.terminal import say
from orchestrator.runtime.logs import list_sessions


def run() -> int:
    found = run_loop(_list())
    for session_id, state in sorted(found.items()):
        print(f"{session_id}\t{state}")
    if not found:
        say("no sessions yet; start one at the console page of `orch serve`, or with `orch chat`")
    return 0


async def _list() -> dict[str, str]:
    try:
        async with history() as archive:
            found = dict.fromkeys(await archive.archived(), "archived")
    except NoHistoryError:
        found = {}
    async with store() as (redis, keys):
        here = await list_sessions(redis, keys)
    return found | {session_id: "live" if live else "ended" for session_id, live in here.items()}
