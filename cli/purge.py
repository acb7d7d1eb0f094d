"""`orch purge`: removes ended sessions from Redis and from the history, for good."""

import sys
import time

from cli.archive import before_us, summed_up, tell
from cli.exits import LEFT
from cli.store import history, store
from cli.terminal import UsageError, say
from cli.terminal import run as run_loop
from orchestrator.runtime.history import archiver
from orchestrator.runtime.redis.connection import load_scripts


def run(session_ids: list[str], older_than: str, *, is_dry: bool, is_confirmed: bool) -> int:
    """Purge ended sessions after a confirmation. Returns LEFT if any session was left as it is."""
    if bool(session_ids) == bool(older_than):
        raise UsageError("say which: session ids, or --older-than AGE, such as 90d")
    if not (is_dry or is_confirmed or sys.stdin.isatty()):
        raise UsageError("this cannot be undone: look first with --dry-run, then say --yes")
    before = before_us(older_than) if older_than else time.time_ns() // 1_000
    return run_loop(_purge(before, session_ids, is_dry=is_dry, is_confirmed=is_confirmed))


async def _purge(before: int, session_ids: list[str], *, is_dry: bool, is_confirmed: bool) -> int:
    async with store() as (redis, keys), history() as archive:
        await load_scripts(redis)
        ended = await archive.ended_before(before)
        if session_ids:
            ended = {session_id: version for session_id, version in ended.items() if session_id in session_ids}
        letters = 0 if session_ids else await archive.dead_letters_before(before // 1_000)
        what = f"{len(ended)} sessions" + (f" and {letters} dead letters" if letters else "")
        if not (is_dry or is_confirmed) and (ended or letters) and not _agrees(what):
            say("nothing is purged")
            return LEFT
        left = _missing(session_ids, ended)
        done, only = 0, frozenset(session_ids)
        async for session_id, reason in archiver.purge(redis, keys, archive, before, is_dry=is_dry, only=only):
            done, left = done + (not reason), left + bool(reason)
            tell(session_id, "would be purged" if is_dry else "purged", reason)
    word = "would be purged" if is_dry else "purged"
    return summed_up(f"{done} sessions{f' and {letters} dead letters' if letters else ''} {word}", left)


def _agrees(what: str) -> bool:
    print(f"{what} will be removed from Redis and from the history, for good. Go on? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _missing(session_ids: list[str], ended: dict[str, int]) -> int:
    missing = [session_id for session_id in session_ids if session_id not in ended]
    for session_id in missing:
        tell(
            session_id, "", "the history knows no session of this id that ended; `orch sessions` lists those there are"
        )
    return len(missing)
