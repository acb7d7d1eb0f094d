"""`orch purge`: removes sessions that are over from Redis and from the history, for good."""

import sys
import time

from cli.archive import before_us, summed_up, tell
from cli.exits import LEFT
from cli.store import history, store
from cli.terminal import UsageError, read_line, say
from cli.terminal import run as run_loop
from orchestrator.runtime.history import archiver
from orchestrator.runtime.redis.connection import load_scripts


def run(session_ids: list[str], older_than: str, *, is_dry: bool, is_confirmed: bool) -> int:
    """Purge sessions that are over, after a confirmation. Returns LEFT if any session was left as it is."""
    if bool(session_ids) == bool(older_than):
        raise UsageError("say which: session ids, or --older-than AGE, such as 90d")
    if not (is_dry or is_confirmed or sys.stdin.isatty()):
        raise UsageError("this cannot be undone: look first with --dry-run, then say --yes")
    before = before_us(older_than) if older_than else time.time_ns() // 1_000
    return run_loop(_purge(before, session_ids, is_dry=is_dry, is_confirmed=is_confirmed))


async def _purge(before: int, session_ids: list[str], *, is_dry: bool, is_confirmed: bool) -> int:
    async with store() as (redis, keys), history() as archive:
        await load_scripts(redis)
        over = set(await archiver.purgeable(redis, keys, archive, before))
        if session_ids:
            over &= set(session_ids)
        letters = 0 if session_ids else await archive.dead_letters_before(before // 1_000)
        what = f"{len(over)} sessions" + (f" and {letters} dead letters" if letters else "")
        if not (is_dry or is_confirmed) and (over or letters) and not _agrees(what):
            say("nothing is purged")
            return LEFT
        left = _missing(session_ids, over)
        done, only = 0, frozenset(session_ids)
        async for session_id, reason in archiver.purge(redis, keys, archive, before, is_dry=is_dry, only=only):
            done, left = done + (not reason), left + bool(reason)
            tell(session_id, "would be purged" if is_dry else "purged", reason)
        words = "" if is_dry else await archive.overwrite()
    if words:
        say(f"⚠ {words}")
    word = "would be purged" if is_dry else "purged"
    code = summed_up(f"{done} sessions{f' and {letters} dead letters' if letters else ''} {word}", left)
    return LEFT if words else code


def _agrees(what: str) -> bool:
    print(f"{what} will be removed from Redis and from the history, for good. Go on? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    return read_line().strip().lower() in ("y", "yes")


def _missing(session_ids: list[str], over: set[str]) -> int:
    missing = [session_id for session_id in session_ids if session_id not in over]
    for session_id in missing:
        tell(session_id, "", "it is live, goes on in Redis, or the history does not know it; see `orch sessions`")
    return len(missing)
