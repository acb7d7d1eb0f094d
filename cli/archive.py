"""`orch archive` and `orch purge`: what Redis may forget, and what is to be forgotten everywhere."""

from cli.age import BadAgeError, before_us
from cli.store import history, store
from cli.terminal import run as run_loop
from cli.terminal import say
from orchestrator.replay.verdict import USAGE
from orchestrator.runtime import archiver
from orchestrator.runtime.connection import load_scripts

LEFT = 1


def run(older_than: str, *, dry_run: bool, forget: bool = False) -> int:
    """1: something was left as it is."""
    try:
        before = before_us(older_than)
    except BadAgeError as error:
        say(f"✗ --older-than: {error}")
        return USAGE
    return run_loop(_do(before, is_dry=dry_run, forget=forget))


async def _do(before: int, *, is_dry: bool, forget: bool) -> int:
    done = left = 0
    word = ("would be " if is_dry else "") + ("purged" if forget else "archived")
    do = archiver.purge if forget else archiver.archive
    async with store() as (redis, keys), history() as archive:
        await load_scripts(redis)
        async for session_id, reason in do(redis, keys, archive, before, is_dry=is_dry):
            if reason:
                left += 1
                say(f"✗ {session_id} is left as it is: {reason}")
            else:
                done += 1
                print(f"{session_id}\t{word}")
    say(f"{done} sessions {word}" + (f", {left} left as they are" if left else ""))
    return LEFT if left else 0
