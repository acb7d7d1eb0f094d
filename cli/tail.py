"""`orch tail`: the golden log as it is written."""

from fnmatch import fnmatchcase

from cli.store import store
from cli.terminal import run as run_loop
from cli.terminal import say
from events.codec import encode
from orchestrator.replay.words import name, short
from orchestrator.runtime.redis.logs import UnknownSessionError, feed_ends, follow
from projections.golden_log import GoldenLog


def run(session_id: str, *, tools: bool, types: list[str], as_json: bool) -> int:
    try:
        run_loop(_follow(session_id, types, with_tools=tools, as_json=as_json))
    except KeyboardInterrupt:
        return 0
    return 0


async def _follow(session_id: str, types: list[str], *, with_tools: bool, as_json: bool) -> None:
    golden = GoldenLog(with_tools=with_tools)
    async with store() as (redis, keys):
        positions = {keys.log(session_id): "0"}
        if session_id and not await redis.exists(keys.log(session_id)):
            raise UnknownSessionError(
                f"Redis has no log of {session_id!r}; `orch sessions` lists all, `orch show` also shows archived ones"
            )
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
