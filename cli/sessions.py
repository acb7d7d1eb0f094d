"""`orch sessions`: lists the conversations in Redis and in the archive, the oldest first."""

from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime

from cli.exits import OK, UNUSABLE
from cli.store import NoHistoryError, UnusableHistoryError, history, store
from cli.terminal import run as run_loop
from cli.terminal import say
from orchestrator.console.stored import Stored
from orchestrator.safe_text import one_line
from projections.summary import MOST, Summary, Wanted


def run() -> int:
    """Print the list. Returns UNUSABLE if a log or the archive cannot be read: their sessions are not in the list."""
    found, problems = run_loop(_list())
    for one in found:
        print(line(one))
    for problem in problems:
        say(f"✗ {one_line(problem)}")
    if problems:
        return UNUSABLE
    if not found:
        say("no sessions yet; start one at the talk page of `orch serve`, or with `orch chat`")
    return OK


def line(one: Summary) -> str:
    """Columns separated by tabs: id, state, beginning in local time, turns, duration until the last event, outcome,
    slowest turn, interruptions, failures.
    """
    opened = datetime.fromtimestamp(one.opened_us / 1e6, UTC).astimezone().isoformat(" ", "seconds")
    slowest = "-" if one.slowest_us is None else f"turn {one.slowest_turn} {one.slowest_us // 1000} ms"
    columns = (
        one_line(one.session_id),
        one.state,
        opened,
        f"{one.turns} turns",
        f"{(one.last_us - one.opened_us) / 1e6:.1f} s",
        one_line(one.outcome),
        slowest,
        f"{one.interruptions} interruptions",
        f"{one.failures} failures",
    )
    return "\t".join(columns)


async def _list() -> tuple[list[Summary], list[str]]:
    try:
        return await _read(with_history=True)
    except UnusableHistoryError as error:
        found, problems = await _read(with_history=False)
        return found, [*problems, f"archived sessions are not listed: {error}"]


async def _read(*, with_history: bool) -> tuple[list[Summary], list[str]]:
    """All sessions, the oldest first, and why logs cannot be read. Raises UnusableHistoryError."""
    async with AsyncExitStack() as stack:
        archive = None
        with suppress(NoHistoryError):  # a service that has never run
            archive = await stack.enter_async_context(history()) if with_history else None
        redis, keys = await stack.enter_async_context(store())
        library, wanted, found = Stored(redis, keys, archive), Wanted(size=MOST), list[Summary]()
        while True:
            page, cursor = await library.page(wanted)
            found += page
            if not cursor:
                return found[::-1], [f"unreadable: {why}" for why in library.unreadable.values()]
            *after, key = wanted.place(page[-1])
            wanted = replace(wanted, after=tuple(map(int, after)), after_key=str(key))
