"""Sessions of a service in the console and in `orch sessions`: from Redis and SQL, in one order, each once."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from events.codec import encode
from events.derived import SessionEnded
from orchestrator.console import stored
from orchestrator.console.library import NoSuchSessionError
from orchestrator.console.stored import Stored
from projections.history.listing import known
from projections.history.store import History, database_url
from projections.summary import Summary, Wanted, summary_of
from tests.cli.service import environment, orch_process
from tests.console.conftest import serving
from tests.console.stored_sessions import KEYS, archive, commit, log_named, redis_in

FILES = ("barge_in.jsonl", "normal_flow.jsonl", "failures/answer_slow.jsonl", "failures/answers_stay_down.jsonl")
QUERIES = (
    {},
    {"sort": "slowest"},
    {"failed": "1"},
    {"interrupted": "1"},
    {"slower_ms": "950", "sort": "slowest"},
    {"outcome": "goodbye"},
    {"outcome": "LISTENING"},
    {"state": "live"},
    {"state": "ended"},
    {"state": "archived"},
    {"q": "SESSION_1"},
    {"day": "1970-01-01"},
)


async def pages(library: Stored, wanted: Wanted) -> list[Summary]:
    """All pages of a query, three sessions each."""
    found: list[Summary] = []
    wanted = replace(wanted, size=3)
    while True:
        page, cursor = await library.page(wanted)
        found += page
        if not cursor:
            return found
        *after, key = wanted.place(page[-1])
        wanted = replace(wanted, after=tuple(map(int, after)), after_key=str(key))


async def test_sql_and_logs_give_the_same_list(tmp_path: Path) -> None:
    """In Redis alone, in both, in SQL alone: the filters, the order and the pages are those of one list."""
    logs = {
        f"session_{number:02}": log_named(f"session_{number:02}", file, number * 1_000_000)
        for number, file in enumerate(FILES * 4)
    }
    async with redis_in(tmp_path) as redis, History(database_url("", tmp_path)) as history:
        expected = []
        for number, (name, log) in enumerate(logs.items()):
            where = ("live", "ended", "archived")[number % 3]
            if where != "archived":
                await commit(redis, log, is_live=where == "live")
            if where == "archived" or number % 2:
                await archive(history, log)
            expected.append(summary_of(log, name, where))  # type: ignore[arg-type]
        library = Stored(redis, KEYS, history)
        for query in QUERIES:
            wanted = Wanted.from_query(query)
            assert await pages(library, wanted) == wanted.page(expected)[0], query
        for name, log in logs.items():
            assert await library.log(name) == log
        with pytest.raises(NoSuchSessionError):
            await library.log("nobody")


async def test_a_session_that_gets_into_the_history_meanwhile_is_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the question which sessions the history has and its list, as a service at work writes it."""
    log = log_named("session_1")
    async with redis_in(tmp_path) as redis, History(database_url("", tmp_path)) as history:
        await commit(redis, log, is_live=True)

        async def known_too_early(asked: History, ids: Iterable[str]) -> dict[str, int]:
            found = await known(asked, ids)
            await archive(history, log)
            return found

        monkeypatch.setattr(stored, "known", known_too_early)
        page, cursor = await Stored(redis, KEYS, history).page(Wanted())
        assert ([one.key for one in page], cursor) == (["session_1"], "")


async def test_a_session_that_the_history_has_in_part_is_listed_whole(tmp_path: Path) -> None:
    """As just after its end, on a busy machine; live or ended."""
    log = log_named("session_1")
    async with redis_in(tmp_path) as redis, History(database_url("", tmp_path)) as history:
        await archive(history, log[:2])
        for part, is_live in ((log[:40], True), (log, False)):
            await redis.delete(KEYS.log("session_1"), KEYS.sessions(KEYS.shard_of("session_1")))
            await commit(redis, part, is_live=is_live)
            page, _ = await Stored(redis, KEYS, history).page(Wanted())
            assert page == [summary_of(part, "session_1", "live" if is_live else "ended")]


async def test_a_session_is_followed_from_any_version(tmp_path: Path) -> None:
    """Each step once, in order, as it is committed; the end of the session ends it."""
    log = log_named("followed")
    assert any(isinstance(event, SessionEnded) for event in log)
    async with redis_in(tmp_path) as redis:
        await commit(redis, log[:40], is_live=True)
        library = Stored(redis, KEYS, None)

        async def versions(after: int) -> list[int]:
            found = [step async for new in library.follow("followed", after) for step in new]
            return [event.version for step in found for event in step]

        following = [asyncio.create_task(versions(after)) for after in (0, log[39].version)]
        await commit(redis, log[40:], is_live=True)
        async with asyncio.timeout(10):
            assert await following[0] == [event.version for event in log]
            assert await following[1] == [event.version for event in log[40:]]


async def test_a_log_that_cannot_be_read_hides_no_other_session(tmp_path: Path) -> None:
    """As a newer node wrote it before a rollback. The list and its own page say why; `orch sessions` names it, too."""
    good, bad = log_named("good"), "written_by_a_newer_node"
    async with redis_in(tmp_path) as redis:
        await commit(redis, good)
        line = encode(log_named(bad)[0]).replace(b'"SESSION_OPENED"', b'"SESSION_REVIVED"')
        await redis.xadd(KEYS.log(bad), {"e": line}, id="0-1")
        async with serving(Stored(redis, KEYS, None)) as url, aiohttp.ClientSession() as http:
            for _ in range(2):  # the second list is from memory
                async with http.get(f"{url}/api/sessions") as answer:
                    found = await answer.json()
                assert [one["key"] for one in found["sessions"]] == ["good"]
                assert found["unreadable"] == {bad: f"{bad}: unknown event type 'SESSION_REVIVED'"}
            async with http.get(f"{url}/api/sessions/{bad}") as answer:
                assert answer.status == 422
                assert "unknown event type 'SESSION_REVIVED'" in (await answer.json())["problem"]
        done = await asyncio.to_thread(orch_process, "sessions", env=environment(tmp_path))
    assert done.stdout.startswith("good\tended\t"), done
    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert done.stderr == f"✗ unreadable: {bad}: unknown event type 'SESSION_REVIVED'\n"
