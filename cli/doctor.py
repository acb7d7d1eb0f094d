"""`orch doctor`: what this Redis promises to keep, who serves its conversations, and what is wrong with either."""

from cli.store import store
from cli.terminal import run as run_loop
from cli.terminal import say
from orchestrator.runtime.durability import durability
from orchestrator.runtime.logs import Backlog, backlog


def run() -> int:
    """1: something may harm a caller."""
    return run_loop(_look())


async def _look() -> int:
    async with store() as (redis, keys):
        servers, state = await durability(redis), await backlog(redis, keys)
    warnings = [words for server in servers for words in server.warnings()] + _about(state)
    for server in servers:
        print(server.line())
    print(
        f"{keys.prefix}: {keys.shards} shards, {state.owned} of them owned by {state.nodes} nodes; "
        f"{state.sessions} live sessions; {state.waiting} events wait, {state.dead_letters} dead letters are kept"
    )
    for words in warnings:
        say(f"⚠ {words}")
    for words in (note for server in servers for note in server.notes()):
        say(f"· {words}")
    if not warnings:
        say("✓ nothing that could harm a caller")
    return 1 if warnings else 0


def _about(state: Backlog) -> list[str]:
    unowned = state.shards - state.owned
    if not state.owned:
        return ["no node is running: the live sessions wait for the next `orch serve`"] if state.sessions else []
    return [f"{unowned} shards have no owner: their sessions stand still until a node takes them"] if unowned else []
