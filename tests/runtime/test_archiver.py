"""Redis forgets what is archived, and only that; from the archive everything can be told, replayed and made anew."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from events.codec import encode
from events.inputs import SessionCloseRequested, SttFinal
from events.recording import Header, dump, parse
from orchestrator.replay.replay import replay
from orchestrator.runtime.history import archiver
from orchestrator.runtime.history.reconcile import rebuild
from orchestrator.runtime.redis.logs import list_sessions, read_lines
from orchestrator.session import REDUCER_VERSION
from projections.history.store import History
from tests.runtime.conftest import Place
from tests.runtime.history_support import caught_up, from_redis, rows, sqlite, started, talk
from tests.runtime.support import Running, soon_in_redis


async def outcomes(steps: AsyncIterator[tuple[str, str]]) -> dict[str, str]:
    return {session_id: words async for session_id, words in steps}


def now() -> int:
    return time.time_ns() // 1_000


async def everything_projected(place: Place, folder: Path) -> None:
    await place.redis.delete(*map(place.keys.positions, range(place.keys.shards)))  # so that we wait for new ones
    projecting = await started(place.url, place.keys, sqlite(folder))
    await caught_up(place.redis, place.keys)
    await projecting.stop()


async def test_archived_sessions_leave_redis_and_can_be_replayed(corner: tuple[Place, Running], tmp_path: Path) -> None:
    """Byte for byte what the log was. A live session stays, and so does the tombstone of one that ended."""
    place, running = corner
    ended, live = await talk(running), await talk(running, ends=False)
    log = await read_lines(place.redis, place.keys, ended)
    await everything_projected(place, tmp_path)
    async with History(sqlite(tmp_path)) as history:
        dry = await outcomes(archiver.archive(place.redis, place.keys, history, now(), is_dry=True))
        assert dry == {ended: ""}
        assert await read_lines(place.redis, place.keys, ended) == log
        young = await outcomes(archiver.archive(place.redis, place.keys, history, now() - 3_600_000_000, is_dry=False))
        assert young == {}
        assert await outcomes(archiver.archive(place.redis, place.keys, history, now(), is_dry=False)) == {ended: ""}
        assert await list_sessions(place.redis, place.keys) == {live: True}
        assert int(await place.redis.hget(place.keys.state(ended), "version") or 0) == len(log)
        assert await history.lines(ended) == log
    replayed = replay(parse(dump(Header(reducer_version=REDUCER_VERSION), log), ended))
    assert replayed.divergence is None
    assert replayed.states[ended].phase == "ENDED"


async def test_a_rebuild_takes_from_the_archive_what_redis_has_forgotten(
    corner: tuple[Place, Running], tmp_path: Path
) -> None:
    """The same rows, and the service goes on projecting afterwards."""
    place, running = corner
    await talk(running)
    await everything_projected(place, tmp_path)
    async with History(sqlite(tmp_path)) as history:
        await outcomes(archiver.archive(place.redis, place.keys, history, now(), is_dry=False))
        await talk(running, ends=False)
        await everything_projected(place, tmp_path)
        before = await rows(sqlite(tmp_path))
        await broken(history)
        made = [one async for one, _, _ in rebuild(place.redis, place.keys, history)]
        assert len(made) == 2
        assert await rows(sqlite(tmp_path)) == before
    other = await talk(running)
    await everything_projected(place, tmp_path)
    found = await rows(sqlite(tmp_path))
    assert next(row for row in found["sessions"] if row["session_id"] == other)["phase"] == "ENDED"


async def broken(history: History) -> None:
    """Every folded table has lost or changed something."""
    engine = create_async_engine(history.url)
    async with engine.begin() as connection:
        for table in ("turns", "transitions", "transcript"):
            await connection.execute(text(f"DELETE FROM {table}"))
        await connection.execute(text("UPDATE sessions SET turns = 99, phase = 'NEW'"))
    await engine.dispose()


async def test_nothing_is_removed_whose_archive_is_not_whole(corner: tuple[Place, Running], tmp_path: Path) -> None:
    """One line is missing in SQL: the log stays, and it is said what to do."""
    place, running = corner
    session_id = await talk(running)
    await everything_projected(place, tmp_path)
    async with History(sqlite(tmp_path)) as history:
        engine = create_async_engine(history.url)
        async with engine.begin() as connection:
            await connection.execute(text("DELETE FROM events WHERE version = 7"))
        await engine.dispose()
        found = await outcomes(archiver.archive(place.redis, place.keys, history, now(), is_dry=False))
        assert "orch projections rebuild history" in found[session_id]
        assert await from_redis(place.redis, place.keys) != await rows(sqlite(tmp_path))
        assert await read_lines(place.redis, place.keys, session_id)


async def test_a_log_that_another_projection_may_need_stays(corner: tuple[Place, Running], tmp_path: Path) -> None:
    """One that is far behind; it is named."""
    place, running = corner
    session_id = await talk(running)
    await everything_projected(place, tmp_path)
    number = place.keys.shard_of(session_id)
    await place.redis.hset(place.keys.positions(number), mapping={"history": 5_000, "spans": 1})
    async with History(sqlite(tmp_path)) as history:
        found = await outcomes(archiver.archive(place.redis, place.keys, history, now(), is_dry=False))
    assert found == {session_id: "the projection spans may still need its log"}


async def test_purged_sessions_are_gone_everywhere(corner: tuple[Place, Running], tmp_path: Path) -> None:
    """Archived or not; and no rebuild brings them back."""
    place, running = corner
    ended, live = await talk(running), await talk(running, ends=False)
    await everything_projected(place, tmp_path)
    async with History(sqlite(tmp_path)) as history:
        assert await outcomes(archiver.purge(place.redis, place.keys, history, now(), is_dry=True)) == {ended: ""}
        assert set(await history.archived()) == {ended, live}
        assert await outcomes(archiver.purge(place.redis, place.keys, history, now(), is_dry=False)) == {ended: ""}
        assert set(await history.archived()) == {live}
        assert not [key async for key in place.redis.scan_iter(f"*{ended}*")]
    for file in ("history.db", "history.db-wal", "history.db-shm"):
        (tmp_path / file).unlink(missing_ok=True)
    await everything_projected(place, tmp_path)
    assert await rows(sqlite(tmp_path)) == await from_redis(place.redis, place.keys)


async def test_a_session_that_never_ended_is_purged_once_redis_has_lost_it(
    corner: tuple[Place, Running], tmp_path: Path
) -> None:
    """As after Redis was wiped or replaced. A session that is live, or whose log goes on behind the history, stays."""
    place, running = corner
    lost, live, ahead = [await talk(running, ends=False) for _ in range(3)]
    await everything_projected(place, tmp_path)
    running.node.report(SttFinal(session_id=ahead, text="more words", via="text"))
    await running.watch.phase(ahead, "LISTENING", 4)
    await running.node.stop()
    for gone in (lost, ahead):
        await place.redis.srem(place.keys.sessions(place.keys.shard_of(gone)), gone)
    await place.redis.delete(place.keys.log(lost), place.keys.state(lost))
    async with History(sqlite(tmp_path)) as history:

        async def purged(before_us: int, **how: Any) -> dict[str, str]:
            return await outcomes(archiver.purge(place.redis, place.keys, history, before_us, **how))

        assert await purged(now() - 3_600_000_000, is_dry=False) == {}
        assert await purged(now(), is_dry=False, only=frozenset({live, ahead})) == {}
        assert await purged(now(), is_dry=True) == {lost: ""}
        assert await purged(now(), is_dry=False) == {lost: ""}
        assert set(await history.archived()) == {live, ahead}


async def test_a_session_that_goes_on_meanwhile_is_not_purged(
    corner: tuple[Place, Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis looks again when it forgets a session; what was found before does not count."""
    place, running = corner
    live, ahead = [await talk(running, ends=False) for _ in range(2)]
    await everything_projected(place, tmp_path)
    running.node.report(SttFinal(session_id=ahead, text="more words", via="text"))
    await running.watch.phase(ahead, "LISTENING", 4)
    await running.node.stop()
    await place.redis.srem(place.keys.sessions(place.keys.shard_of(ahead)), ahead)
    async with History(sqlite(tmp_path)) as history:
        found = await history.silent_since(now())

        async def found_before(*_: object) -> dict[str, int]:
            return found

        monkeypatch.setattr(archiver, "purgeable", found_before)
        left = await outcomes(archiver.purge(place.redis, place.keys, history, now(), is_dry=False))
        assert left == {live: "it is live", ahead: "its log went on while we looked"}
        assert set(await history.archived()) == {live, ahead}


async def test_a_purge_leaves_no_handled_input_in_the_streams(corner: tuple[Place, Running], tmp_path: Path) -> None:
    """Neither in the inbox nor in an ingress; an input that nobody has handled yet stays."""
    place, running = corner
    ended = await talk(running, ends=False)
    inbox = place.keys.inbox(place.keys.shard_of(ended))
    ingress, owned = place.keys.ingress(2), place.keys.ingress(2, "owned")
    line = encode(SttFinal(session_id=ended, text="words of a producer", via="text"))
    sent = await place.redis.xadd(ingress, {"e": line})
    await running.watch.phase(ended, "LISTENING", 4)
    running.node.report(SessionCloseRequested(session_id=ended, reason="goodbye"))
    await running.watch.phase(ended, "ENDED")

    async def is_handled() -> bool:
        return bool(await place.redis.hget(owned, "cursor") == sent)

    await soon_in_redis(is_handled)
    await everything_projected(place, tmp_path)
    await running.node.stop()
    waiting = await place.redis.xadd(inbox, {"e": line})
    async with History(sqlite(tmp_path)) as history:
        assert await outcomes(archiver.purge(place.redis, place.keys, history, now(), is_dry=False)) == {ended: ""}
    assert [entry for entry, _ in await place.redis.xrange(inbox)] == [waiting]
    assert await place.redis.xrange(ingress) == []
