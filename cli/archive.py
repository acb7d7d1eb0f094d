"""`orch archive` and `orch purge`: what Redis may forget, and what is to be forgotten everywhere."""

import re
import time

from cli.store import history, store
from cli.terminal import UsageError, say
from cli.terminal import run as run_loop
from orchestrator.runtime import archiver
from orchestrator.runtime.connection import load_scripts

LEFT = 1
_AGE = re.compile(r"(\d{1,6})([mhd])")
_UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}


def run(older_than: str, *, dry_run: bool, forget: bool = False) -> int:
    """1: something was left as it is."""
    age = _AGE.fullmatch(older_than)
    if age is None:
        raise UsageError(f"--older-than: {older_than!r} is no age; say 90d, 12h or 30m")
    before = int((time.time() - int(age[1]) * _UNITS_S[age[2]]) * 1_000_000)
    return run_loop(_do(before, is_dry=dry_run, forget=forget))


async def _do(before: int, *, is_dry: bool, forget: bool) -> int:
    done = left = 0
    word = ("would be " if is_dry else "") + ("purged" if forget else "archived")
    do = archiver.purge if forget else archiver.archive
    async with store() as (redis, keys), history() as archive:
        await load_scripts(redis)
        letters = await archive.dead_letters_before(before // 1_000) if forget else 0
        async for session_id, reason in do(redis, keys, archive, before, is_dry=is_dry):
            if reason:
                left += 1
                say(f"✗ {session_id} is left as it is: {reason}")
            else:
                done += 1
                print(f"{session_id}\t{word}")
    and_letters = f" and {letters} dead letters" if letters else ""
    say(f"{done} sessions{and_letters} {word}" + (f", {left} left as they are" if left else ""))
    return LEFT if left else 0
