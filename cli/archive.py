"""`orch archive`: removes ended sessions from Redis once the history has archived them."""

import re
import time

from cli.exits import LEFT, OK
from cli.store import history, store
from cli.terminal import UsageError, say
from cli.terminal import run as run_loop
from orchestrator.runtime.history import archiver
from orchestrator.runtime.redis.connection import load_scripts
from orchestrator.safe_text import one_line

_AGE = re.compile(r"(\d{1,6})([mhd])")
_UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}


def run(older_than: str, *, dry_run: bool) -> int:
    """Archive ended sessions. Returns LEFT if any session was left as it is."""
    return run_loop(_archive(before_us(older_than), is_dry=dry_run))


def before_us(age: str) -> int:
    """The time `age` ago, in µs since the epoch. Raises UsageError."""
    found = _AGE.fullmatch(age)
    if found is None:
        raise UsageError(f"--older-than: {age!r} is no age; say 90d, 12h or 30m")
    return int((time.time() - int(found[1]) * _UNITS_S[found[2]]) * 1_000_000)


async def _archive(before: int, *, is_dry: bool) -> int:
    done = left = 0
    word = "would be archived" if is_dry else "archived"
    async with store() as (redis, keys), history() as archive:
        await load_scripts(redis)
        async for session_id, reason in archiver.archive(redis, keys, archive, before, is_dry=is_dry):
            done, left = done + (not reason), left + bool(reason)
            tell(session_id, word, reason)
    return summed_up(f"{done} sessions {word}", left)


def tell(session_id: str, word: str, reason: str) -> None:
    """Print the result for one session: `word`, or the reason why it is left."""
    if reason:
        say(f"✗ {one_line(session_id)} is left as it is: {reason}")
    else:
        print(f"{one_line(session_id)}\t{word}")


def summed_up(words: str, left: int) -> int:
    """Print the summary and return the exit code."""
    say(words + (f", {left} left as they are" if left else ""))
    return LEFT if left else OK
