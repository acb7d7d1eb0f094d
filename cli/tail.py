"""`orch tail`: the golden log as it is written."""

from cli.store import store
from cli.terminal import run as run_loop
from cli.terminal import say
from orchestrator.runtime.logs import follow, now
from projections.golden_log import GoldenLog


def run(session_id: str) -> int:
    try:
        run_loop(_follow(session_id))
    except KeyboardInterrupt:
        return 0
    return 0


async def _follow(session_id: str) -> None:
    golden = GoldenLog()
    async with store() as (redis, keys):
        positions = {keys.log(session_id): "0"} if session_id else await now(redis, keys)
        say(f"following {session_id or 'all sessions'} (stop with Ctrl-C)")
        async for event in follow(redis, keys, positions):
            if (line := golden.line(event)) is not None:
                print(line, flush=True)
