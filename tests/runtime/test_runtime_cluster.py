"""The same service on a real Redis Cluster: three masters with a replica each."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from events.codec import encode
from events.inputs import SessionOpened, SessionResumed, SttFinal, SttPartial
from orchestrator.runtime.history.archiver import archive
from orchestrator.runtime.node import Node, UnusableRedisError
from orchestrator.runtime.redis.cluster import plain
from orchestrator.runtime.redis.connection import connect, run_all
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import feed_ends, follow, list_sessions, read_lines
from projections.history.store import History
from tests.runtime.history_support import from_redis, rows, sqlite, talk
from tests.runtime.history_support import started as projecting_started
from tests.runtime.laws import check_laws
from tests.runtime.redis_cluster import Cluster
from tests.runtime.redis_cluster import Node as Server
from tests.runtime.support import PATIENCE_S, Running, StubClient, Stubs, Watch, soon, soon_in_redis

KEYS = Keys(shards=12)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path) as cluster:
        yield cluster


async def started(cluster: Cluster) -> Running:
    stubs, watch = Stubs(), Watch()
    node = Node(cluster.url, stubs.services(), observer=watch, keys=KEYS, lease_ms=1_000)
    await node.start()
    return Running(node, stubs, watch)


async def check(cluster: Cluster, sessions: int) -> None:
    redis = connect(cluster.url)
    assert await check_laws(redis, KEYS) == sessions
    await redis.aclose()


async def said(node: Node, session_id: str, last: str) -> list[str]:
    """The partial words in the log, as soon as these are among them. The observer is not asked: what was committed when
    the shard was just being given up is in the log alone.
    """
    words: list[str] = []

    async def there() -> bool:
        try:
            events = await node.read_log(session_id)
        except (RedisError, OSError):
            return False
        words[:] = [event.text for event in events if isinstance(event, SttPartial)]
        return last in words

    await soon_in_redis(there)
    return words


async def test_conversations_go_on_through_the_loss_of_a_master(cluster: Cluster) -> None:
    """Its replica takes its place; the sessions of its shards are resumed; no log has a gap, and nothing is doubled.
    What the replica had not got yet is counted.
    """
    running = await started(cluster)
    node, watch = running.node, running.watch
    assert len(node.shards) == KEYS.shards
    calls = [await running.listening() for _ in range(6)]
    for live in calls:
        node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
        await watch.phase(live.session_id, "LISTENING", 2)
    victim = await cluster.master_of(KEYS.log(calls[0].session_id))
    await victim.kill()
    for live in calls:
        for number in range(20):
            node.report(SttPartial(session_id=live.session_id, text=f"word {number}"))
    for live in calls:
        await said(node, live.session_id, "word 19")
    await watch.event(calls[0].session_id, SessionResumed)
    for live in calls:
        words = await said(node, live.session_id, "word 19")
        assert sorted(set(words), key=words.index) == [f"word {number}" for number in range(20)]
    await soon(lambda: len(node.shards) == KEYS.shards)
    fresh = await running.listening()
    node.report(SttFinal(session_id=fresh.session_id, text="hello", via="text"))
    await watch.phase(fresh.session_id, "LISTENING", 2)
    await node.stop()
    await check(cluster, 7)
    redis = connect(cluster.url)
    kept = {line for live in calls for line in await read_lines(redis, KEYS, live.session_id)}
    await redis.aclose()
    committed = [encode(event) for live in calls for event in watch.events[live.session_id]]
    assert node.counters["lost_versions"] == sum(line not in kept for line in committed)


async def test_two_nodes_share_the_shards_of_a_cluster(cluster: Cluster) -> None:
    """Membership, leases, hand-over and the ingress work across masters."""
    first = await started(cluster)
    live = await first.listening()
    second = await started(cluster)
    await soon(lambda: len(second.node.shards) == KEYS.shards // 2)
    owner = first if first.node.session(live.session_id) else second
    redis = connect(cluster.url)
    line = f'{{"type": "STT_PARTIAL", "session_id": "{live.session_id}", "text": "from outside"}}'
    await redis.xadd(KEYS.ingress(1), {"e": line})
    await owner.watch.event(live.session_id, SttPartial, text="from outside")
    other = second if owner is first else first
    await owner.node.stop()
    await other.watch.event(live.session_id, SessionResumed)
    await soon(lambda: len(other.node.shards) == KEYS.shards)
    await other.node.stop()
    await check(cluster, 1)
    await redis.aclose()


async def test_all_sessions_of_a_cluster_are_followed(cluster: Cluster) -> None:
    """Over its masters: one command cannot read streams of two."""
    running, redis = await started(cluster), connect(cluster.url)
    ends = await feed_ends(redis, KEYS, range(KEYS.shards))
    positions = {KEYS.feed(number): last[0].decode() if last else "0" for number, last in ends.items()}
    lives = [await running.listening() for _ in range(6)]
    shards = {KEYS.shard_of(live.session_id) for live in lives}
    assert len(shards) > 1
    opened: set[str] = set()
    async with asyncio.timeout(PATIENCE_S), aclosing(follow(redis, KEYS, positions)) as events:
        async for event in events:
            opened |= {event.session_id} if isinstance(event, SessionOpened) else set()
            if len(opened) == len(lives):
                break
    await redis.aclose()
    await running.node.stop()


async def test_a_cluster_that_is_named_as_one_server_is_refused_in_words(cluster: Cluster) -> None:
    """The message has the URL to write instead."""
    await soon_in_redis(cluster.is_whole)
    node = Node(plain(cluster.url), Stubs().services(), observer=Watch(), keys=KEYS)
    with pytest.raises(UnusableRedisError, match=r"is a Redis Cluster: .* redis\+cluster://"):
        await node.start()
    await node.stop()


@pytest.mark.parametrize("end", [Server.kill, Server.pause], ids=["it is gone", "it does not answer"])
async def test_commands_about_all_shards_find_the_master_that_has_followed(
    end: Callable[[Server], Awaitable[None]], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked of the others is answered meanwhile."""
    monkeypatch.setattr("orchestrator.runtime.redis.connection.TIMEOUT_S", 0.5)
    redis = connect(cluster.url)
    ask = [("XLEN", KEYS.feed(number)) for number in range(KEYS.shards)]
    assert await run_all(redis, ask) == [0] * KEYS.shards
    await end(await cluster.master_of(KEYS.feed(0)))
    assert 0 in await run_all(redis, ask)

    async def all_answer() -> bool:
        try:
            return await run_all(redis, ask) == [0] * KEYS.shards
        except (RedisError, OSError):  # for a moment no master serves anybody
            return False

    await soon_in_redis(all_answer)
    await redis.aclose()


async def test_the_history_goes_on_through_the_loss_of_a_master(cluster: Cluster, tmp_path: Path) -> None:
    """What SQL has is what the logs say afterwards, also where the replica had not got everything. Then it is archived,
    master by master.
    """
    running = await started(cluster)
    projecting = await projecting_started(cluster.url, KEYS, sqlite(tmp_path))
    talked = [await talk(running) for _ in range(3)]
    live = await running.listening()
    victim = await cluster.master_of(KEYS.log(live.session_id))
    await victim.kill()
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await running.watch.event(live.session_id, SessionResumed)
    back = running.node.session(live.session_id)
    assert back is not None
    running.node.connect_client(back, StubClient("browser-2"))
    await running.watch.phase(live.session_id, "LISTENING", 2)
    await soon(lambda: len(running.node.shards) == KEYS.shards)
    talked.append(await talk(running))
    redis = connect(cluster.url)

    async def equal() -> bool:
        return await rows(sqlite(tmp_path)) == await from_redis(redis, KEYS)

    await soon_in_redis(equal)
    await projecting.stop()
    await running.node.stop()
    async with History(sqlite(tmp_path)) as history:
        outcomes = {one: words async for one, words in archive(redis, KEYS, history, 2**53, is_dry=False)}
    assert outcomes == dict.fromkeys(talked, "")
    assert await list_sessions(redis, KEYS) == {live.session_id: True}
    await redis.aclose()
