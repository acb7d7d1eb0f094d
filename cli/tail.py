"""`orch tail`: the golden log as it is written."""

from fnmatch import fnmatchcase

from cli.store import store
from cli.terminal import run as run_loop
from cli.terminal import say
from events.codec import encode
from orchestrator.replay.words import name, short
from orchestrator.runtime.logs import feed_ends, follow
from projections.golden_log import GoldenLog


def run(session_id: str, *, types: list[str], as_json: bool) -> int:
    try:
        run_loop(_follow(session_id, types, as_json=as_json))
    except KeyboardInterrupt:
        return 0
    return 0


async def _follow(session_id: str, types: list[str], *, as_json: bool) -> None:
    golden = GoldenLog()
    async with store() as (redis, keys):
        positions = {keys.log(session_id): "0"}
        if not session_id:
            ends = await feed_ends(redis, keys, range(keys.shards))
            positions = {keys.feed(number): last[0].decode() if last else "0" for number, last in ends.items()}
        say(f"following {session_id or 'all sessions'} (stop with Ctrl-C)")
        async for event in follow(redis, keys, positions):
            if types and not any(fnmatchcase(name(event), pattern) for pattern in types):
                continue
            line = encode(event).decode() if as_json else short(event) if types else golden.line(event)
            if line is not None:
                print(line, flush=True)
