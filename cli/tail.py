"""`orch tail`: the golden log as it is written."""

from cli.store import store
from cli.terminal import run as run_loop
from orchestrator.runtime.logs import tail
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
        async for event in tail(redis, keys, session_id):
            if (line := golden.line(event)) is not None:
                print(line, flush=True)
