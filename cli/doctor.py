"""`orch doctor`: reports how durable this Redis is, which nodes serve its conversations, and the problems of both."""

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cli.exits import LEFT, OK
from cli.store import NoHistoryError, UnusableHistoryError, history, store
from cli.terminal import run as run_loop
from cli.terminal import say, words
from orchestrator.gateway.access.setup import OPEN
from orchestrator.runtime.fleet.backlog import Backlog, backlog
from orchestrator.runtime.redis.durability import durability
from orchestrator.runtime.redis.keys import Keys
from orchestrator.settings import Settings


def run() -> int:
    """Print the report. Returns LEFT if there is a warning: a problem that may harm a caller."""
    return run_loop(_look())


async def _look() -> int:
    async with store() as (redis, keys):
        servers, state = await durability(redis), await backlog(redis, keys)
        refusal, is_set_up = await _refusal(redis, keys), bool(await redis.exists(keys.shard_count))
    warnings = [warning for server in servers for warning in server.warnings()]
    warnings += [OPEN] if Settings.from_environment().auth == "none" else []
    warnings += refusal + _about(state, is_set_up=is_set_up) + await _about_history()
    for server in servers:
        print(server.line())
    print(
        f"{keys.prefix}: {keys.shards} shards, {state.owned} of them owned by {state.nodes} nodes; "
        f"{state.sessions} live sessions; {state.waiting} events wait, {state.dead_letters} dead letters are kept"
    )
    for warning in warnings:
        say(f"⚠ {warning}")
    for note in (note for server in servers for note in server.notes()):
        say(f"· {note}")
    if not warnings:
        say("✓ nothing that could harm a caller")
    return LEFT if warnings else OK


async def _refusal(redis: Redis, keys: Keys) -> list[str]:
    """Why Redis refuses writes: full disk or memory, a replica, missing rights. Empty if it accepts them."""
    try:
        await redis.set(f"{keys.prefix}:doctor", 1, px=1_000)
    except RedisError as error:
        return [f"Redis refuses to write, so calls stand still: {error}"]
    return []


async def _about_history() -> list[str]:
    try:
        async with history() as archive:
            await archive.dead_letters_before(0)
    except NoHistoryError:  # a service that has never run
        return []
    except (UnusableHistoryError, OSError) as error:
        return [words(error)]
    return []


def _about(state: Backlog, *, is_set_up: bool) -> list[str]:
    unowned = state.shards - state.owned
    if not state.nodes:
        return ["no node is running: the live sessions wait for the next `orch serve`"] if state.sessions else []
    found = []
    if not is_set_up:
        found.append(
            "a node is running, but its keys were removed from Redis (FLUSHALL, or a restart without its data): "
            "the conversations of before are gone; restart every node"
        )
    if unowned:
        found.append(f"{unowned} shards have no owner: their sessions stand still until a node takes them")
    return found
