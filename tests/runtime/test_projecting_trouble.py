"""Gaps, forks, a database that fails, poison: the history comes right by itself, and no call notices."""

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from events.inputs import SessionResumed, SttFinal
from orchestrator.runtime.clock import now_us
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.history.archiver import NAME
from orchestrator.runtime.history.projecting import Projecting
from orchestrator.runtime.history.reconcile import ends
from orchestrator.runtime.redis.connection import connect
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import all_logs
from projections.history.store import History
from tests.runtime.conftest import MakeNode, Place
from tests.runtime.history_support import caught_up, everything, from_redis, rows, sqlite, started, talk
from tests.runtime.redis_server import Server
from tests.runtime.support import Running, StubClient, a_session_on, soon, soon_in_redis


async def equal(place: Place, database: Any) -> None:
    """Return when SQL has what the logs say."""

    async def there() -> bool:
        return await rows(database) == await from_redis(place.redis, place.keys)

    await soon_in_redis(there)


async def test_a_gap_in_the_feed_leads_to_a_comparison_of_the_logs(
    corner: tuple[Place, Running], tmp_path: Path
) -> None:
    """Pointers that were trimmed before they were projected: nothing of their sessions is missing."""
    place, running = corner
    projecting = await started(place.url, place.keys, sqlite(tmp_path))
    await talk(running)
    await caught_up(place.redis, place.keys)
    await projecting.stop()
    for _ in range(3):
        await talk(running)
    for number, end in (await ends(place.redis, place.keys, set(range(place.keys.shards)))).items():
        await place.redis.xtrim(place.keys.feed(number), minid=f"0-{max(1, end.seq)}", approximate=False)
    projecting = await started(place.url, place.keys, sqlite(tmp_path))
    await equal(place, sqlite(tmp_path))
    await talk(running)
    await equal(place, sqlite(tmp_path))
    assert projecting._counters["projection_forks"] > 0
    await projecting.stop()


async def test_a_feed_trimmed_up_to_the_position_is_read_on(corner: tuple[Place, Running], tmp_path: Path) -> None:
    """As commits trim it for a projection that is far behind: the step itself shows that nothing is a fork."""
    place, running = corner
    projecting = await started(place.url, place.keys, sqlite(tmp_path))
    for _ in range(3):
        await talk(running)
    await caught_up(place.redis, place.keys)
    await projecting.stop()
    projected = await ends(place.redis, place.keys, set(range(place.keys.shards)))
    for _ in range(3):
        await talk(running)
    for number, end in projected.items():
        await place.redis.xtrim(place.keys.feed(number), minid=f"0-{end.seq + 1}", approximate=False)
    projecting = await started(place.url, place.keys, sqlite(tmp_path))
    await equal(place, sqlite(tmp_path))
    assert projecting._counters["projection_forks"] == 0
    await projecting.stop()


async def test_all_of_sql_can_be_deleted(corner: tuple[Place, Running], tmp_path: Path) -> None:
    """Even when the feeds do not begin at the beginning any more, the same answers come back."""
    place, running = corner
    for _ in range(3):
        await talk(running)
    projecting = await started(place.url, place.keys, sqlite(tmp_path))
    await caught_up(place.redis, place.keys)
    before = await rows(sqlite(tmp_path))
    await projecting.stop()
    for name in ("history.db", "history.db-wal", "history.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    for number, end in (await ends(place.redis, place.keys, set(range(place.keys.shards)))).items():
        await place.redis.xtrim(place.keys.feed(number), minid=f"0-{max(1, end.seq)}", approximate=False)
    projecting = await started(place.url, place.keys, sqlite(tmp_path))
    await equal(place, sqlite(tmp_path))
    assert await rows(sqlite(tmp_path)) == before
    await projecting.stop()


@pytest.mark.parametrize("projects_on", [True, False], ids=["it projects on", "it was stopped"])
async def test_a_lost_tail_is_found_and_its_sessions_are_made_anew(
    projects_on: bool, server: Server, make_node: MakeNode, place: Place, tmp_path: Path
) -> None:
    """Redis comes back without its last writes; other words get the same versions. SQL has what the log says now."""
    running = await make_node(url=server.url, lease_ms=600)
    there = Place(server.url, place.keys, running.node._redis)
    other = await talk(running)
    live = await running.listening()
    projecting = await started(server.url, place.keys, sqlite(tmp_path))
    await caught_up(there.redis, place.keys)
    length = server.written
    running.node.report(SttFinal(session_id=live.session_id, text="lost words", via="text"))
    await running.watch.phase(live.session_id, "LISTENING", 2)
    await caught_up(there.redis, place.keys)
    if not projects_on:
        await projecting.stop()
    projected = await rows(sqlite(tmp_path))
    await server.kill()
    server.cut(length)
    await server.start()
    await running.watch.event(live.session_id, SessionResumed)
    back = running.node.session(live.session_id)
    assert back is not None
    running.node.connect_client(back, StubClient("browser-2"))
    await running.watch.phase(live.session_id, "LISTENING", 3)
    running.node.report(SttFinal(session_id=live.session_id, text="other words", via="text"))
    await running.watch.phase(live.session_id, "LISTENING", 4)
    if not projects_on:
        projecting = await started(server.url, place.keys, sqlite(tmp_path))
    await equal(there, sqlite(tmp_path))
    now = await rows(sqlite(tmp_path))
    assert projected["sessions"] != now["sessions"]
    assert [row for row in projected["events"] if row["session_id"] == other] == [
        row for row in now["events"] if row["session_id"] == other
    ]
    assert projecting._counters["projection_rebuilds"] > 0
    await projecting.stop()
    await running.node.stop()


@pytest.mark.parametrize("projects_on", [True, False], ids=["it projects on", "it was stopped"])
async def test_a_feed_that_has_become_shorter_is_no_reason_to_wait(
    projects_on: bool, server: Server, make_node: MakeNode, place: Place, tmp_path: Path
) -> None:
    """Redis and the node have forgotten more than was said since: no pointer comes that would tell of it."""
    running = await make_node(url=server.url, lease_ms=600)
    live = await running.listening()
    there = Place(server.url, place.keys, connect(server.url))
    projecting = await started(server.url, place.keys, sqlite(tmp_path))
    await caught_up(there.redis, place.keys)
    length = server.written
    for number in range(3):
        running.node.report(SttFinal(session_id=live.session_id, text="lost words", via="text"))
        await running.watch.phase(live.session_id, "LISTENING", 2 + number)
    await caught_up(there.redis, place.keys)
    if not projects_on:
        await projecting.stop()
    await running.node.stop()
    await server.kill()
    server.cut(length)
    await server.start()
    again = await make_node(url=server.url, lease_ms=600)
    await again.watch.event(live.session_id, SessionResumed)
    if not projects_on:
        projecting = await started(server.url, place.keys, sqlite(tmp_path))
    await equal(there, sqlite(tmp_path))
    assert not [row for row in (await rows(sqlite(tmp_path)))["turns"] if row["text"] == "lost words"]
    await projecting.stop()
    await there.redis.aclose()
    await again.node.stop()


class Hanging(History):
    """A database that takes connections and says nothing."""

    async def open(self) -> None:
        await asyncio.Event().wait()


class FullDisk(History):
    """A database that takes nothing for a while."""

    is_full = True

    async def write(self, *arguments: Any, **options: Any) -> None:
        if self.is_full:
            raise OperationalError("INSERT …", {}, Exception("database or disk is full"))
        await super().write(*arguments, **options)


async def test_a_failing_database_never_disturbs_a_call(running: Running, place: Place, tmp_path: Path) -> None:
    """Calls go on, failures are counted, and everything is there when the database is well again."""
    counters = running.node.counters
    history = FullDisk(sqlite(tmp_path))
    projecting = Projecting(place.url, place.keys, history, lambda: everything(place.keys), counters)
    await projecting.start()
    for _ in range(2):
        await talk(running)
    await soon(lambda: counters["projection_failures"] > 0)
    await talk(running)
    assert counters["projected"] == 0
    history.is_full = False
    await equal(place, sqlite(tmp_path))
    await projecting.stop()


async def test_a_history_that_stands_still_is_further_and_further_behind(
    running: Running, place: Place, tmp_path: Path
) -> None:
    """However often it is tried again; and not behind any more when all is written, though that is old by then."""
    history, counters = FullDisk(sqlite(tmp_path)), Counters()
    projecting = Projecting(place.url, place.keys, history, lambda: everything(place.keys), counters)
    await projecting.start()
    await soon(lambda: len(projecting._feeds) == place.keys.shards and not projecting.lag_s)
    await talk(running)
    seen: list[tuple[int, float, int]] = []
    for failures in range(1, 4):
        await soon(lambda failures=failures: counters["projection_failures"] >= failures)  # type: ignore[misc]
        seen.append((now_us(), projecting.lag_s, now_us()))
    for (_, earlier_s, from_us), (until_us, later_s, _) in pairwise(seen):
        assert later_s - earlier_s >= (until_us - from_us) / 1e6 > 0
    history.is_full = False
    await equal(place, sqlite(tmp_path))
    await soon(lambda: not projecting.lag_s)
    await projecting.stop()


async def test_a_task_that_hangs_is_seen_from_outside(running: Running, place: Place, tmp_path: Path) -> None:
    """Lag is not what the task says of itself."""
    projecting = Projecting(
        place.url, place.keys, Hanging(sqlite(tmp_path)), lambda: everything(place.keys), Counters()
    )
    await projecting.start()
    first = projecting.lag_s
    await soon(lambda: projecting.lag_s > first)
    await projecting.stop()


async def test_a_database_that_cannot_be_opened_is_tried_until_it_can(
    running: Running, place: Place, tmp_path: Path
) -> None:
    """As one that is down when the service starts."""
    (tmp_path / "history.db").mkdir()
    counters = Counters()
    projecting = Projecting(place.url, place.keys, History(sqlite(tmp_path)), lambda: everything(place.keys), counters)
    await projecting.start()
    await talk(running)
    await soon(lambda: counters["projection_failures"] > 0)
    (tmp_path / "history.db").rmdir()
    await caught_up(place.redis, place.keys)
    assert await rows(sqlite(tmp_path)) == await from_redis(place.redis, place.keys)
    await projecting.stop()


async def test_two_at_once_are_harmless(running: Running, place: Place, tmp_path: Path) -> None:
    """Each step is written once, by whoever was first; both go on."""
    both = [await started(place.url, place.keys, sqlite(tmp_path)) for _ in range(2)]
    for _ in range(3):
        await talk(running)
    await equal(place, sqlite(tmp_path))
    for projecting in both:
        await projecting.stop()


async def test_a_shard_that_goes_to_another_owner_goes_on_there(running: Running, place: Place, tmp_path: Path) -> None:
    """The first stops reading; the second goes on from the position in SQL."""
    mine: dict[int, str] = dict.fromkeys(range(place.keys.shards), "first")
    theirs: dict[int, str] = {}
    one = await started(place.url, place.keys, sqlite(tmp_path), lambda: mine)
    other = await started(place.url, place.keys, sqlite(tmp_path), lambda: theirs)
    await talk(running)
    await caught_up(place.redis, place.keys)
    theirs |= dict.fromkeys(mine, "second")
    mine.clear()
    await soon(lambda: not one._feeds and len(other._feeds) == place.keys.shards)
    await talk(running)
    await equal(place, sqlite(tmp_path))
    assert one._counters["projected"] > 0
    assert other._counters["projected"] > 0
    await one.stop()
    await other.stop()


async def test_a_log_that_cannot_be_read_holds_up_no_other_shard(corner: tuple[Place, Running], tmp_path: Path) -> None:
    """An event of a newer orch, say: its shard waits, and is tried again."""
    place, running = corner
    session_id = a_session_on(place.keys, 0, "bad_")
    line = json.dumps({"type": "FROM_THE_FUTURE", "version": 1}).encode()
    await place.redis.xadd(place.keys.log(session_id), {"e": line}, id="0-1")
    await place.redis.xadd(place.keys.feed(0), {"s": session_id, "f": 1, "t": 1}, id="0-1")
    await place.redis.hset(place.keys.shard(0), "feed", 1)
    projecting = await started(place.url, place.keys, sqlite(tmp_path))
    await soon(lambda: projecting._counters["projection_failures"] > 0)
    while place.keys.shard_of(await talk(running)) == 0:
        pass

    async def others() -> bool:
        found = await rows(sqlite(tmp_path))
        return any(row["ended_us"] for row in found["sessions"])

    await soon_in_redis(others)
    assert not await place.redis.hget(place.keys.positions(0), NAME) or (
        await place.redis.hget(place.keys.positions(0), NAME) == b"0"
    )
    await projecting.stop()


async def test_a_log_that_cannot_be_read_holds_up_no_other_forked_shard(
    corner: tuple[Place, Running], tmp_path: Path
) -> None:
    """All feeds have a gap, and so all logs are compared. The shard waits until its log can be read."""
    place, running = corner
    every = set(range(place.keys.shards))
    projecting = await started(place.url, place.keys, sqlite(tmp_path))
    while {place.keys.shard_of(await talk(running)) for _ in range(3)} <= {0}:
        pass
    await caught_up(place.redis, place.keys)
    await projecting.stop()
    for _ in range(6):
        await talk(running)
    bad = a_session_on(place.keys, 0, "bad_")
    line = json.dumps({"type": "FROM_THE_FUTURE", "version": 1}).encode()
    await place.redis.xadd(place.keys.log(bad), {"e": line}, id="0-1")
    await place.redis.xadd(place.keys.feed(0), {"s": bad, "f": 1, "t": 1}, id="0-1000000")
    for number, end in (await ends(place.redis, place.keys, every)).items():
        await place.redis.xtrim(place.keys.feed(number), minid=f"0-{max(1, end.seq)}", approximate=False)
    wanted = {one for one in await all_logs(place.redis, place.keys) if place.keys.shard_of(one) != 0}
    projecting = await started(place.url, place.keys, sqlite(tmp_path))

    async def others_are_there() -> bool:
        found = await rows(sqlite(tmp_path))
        return wanted <= {row["session_id"] for row in found["sessions"] if row["ended_us"]}

    await soon_in_redis(others_are_there)
    await soon(lambda: projecting._feeds.keys() == every - {0})
    await place.redis.delete(place.keys.log(bad))
    await equal(place, sqlite(tmp_path))
    await soon(lambda: projecting._feeds.keys() == every)
    await projecting.stop()


async def test_dead_letters_are_kept_longer_than_redis_keeps_them(
    running: Running, place: Place, tmp_path: Path
) -> None:
    """With the stream and the reason."""
    await place.redis.xadd(place.keys.ingress(0), {"e": b'{"type":"NOBODY"}'})
    await place.dead_letters(place.keys.ingress(0, "unroutable"))
    projecting = await started(place.url, place.keys, sqlite(tmp_path))
    async with History(sqlite(tmp_path)) as history:

        async def there() -> bool:
            return (await history.counts())["unroutable"] == 1

        await soon_in_redis(there)
    await projecting.stop()


def test_a_session_id_is_on_the_shard_its_rows_say() -> None:
    """The helper of these tests."""
    assert Keys(4).shard_of(a_session_on(Keys(4), 0, "bad_")) == 0
