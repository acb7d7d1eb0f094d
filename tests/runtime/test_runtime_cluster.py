"""The same service on a real Redis Cluster: three masters with a replica each."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import cast

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ClusterDownError, MovedError, RedisError, SlotNotCoveredError

from events.codec import encode
from events.envelope import Event
from events.inputs import SessionOpened, SessionResumed, SttFinal, SttPartial
from orchestrator.runtime.fleet.exchange import run_ids
from orchestrator.runtime.history.archiver import archive, purge
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node, RedisSetupError
from orchestrator.runtime.redis import room
from orchestrator.runtime.redis.cluster import ClusterWire, master, plain
from orchestrator.runtime.redis.connection import connect, run_all
from orchestrator.runtime.redis.keys import INGRESSES, Keys
from orchestrator.runtime.redis.logs import feed_ends, follow, list_sessions, read_lines
from orchestrator.runtime.redis.wire import RedisTimeoutError
from projections.history.store import History
from tests.runtime.history_support import from_redis, rows, sqlite, talk
from tests.runtime.history_support import started as projecting_started
from tests.runtime.laws import check_laws
from tests.runtime.redis_cluster import MASTERS, Cluster
from tests.runtime.redis_cluster import Node as Server
from tests.runtime.support import PATIENCE_S, Running, StubClient, Stubs, Watch, soon, soon_in_redis

KEYS = Keys(shards=12)


async def started(cluster: Cluster) -> Running:
    stubs, watch = Stubs(), Watch()
    node = Node(cluster.url, stubs.services(), observer=watch, keys=KEYS, lease_ms=1_000)
    await node.start()
    return Running(node, stubs, watch)


def clients_come_back(running: Running) -> None:
    """From now on. While a replica follows its master, the node may lose the leases of the other shards, too: more than
    one look later it has them again, and each session waits for its client.
    """

    def committed(live: LiveSession, event: Event) -> None:
        if isinstance(event, SessionResumed):
            running.node.connect_client(live, StubClient(f"browser-{event.version}"))

    running.watch.on_commit = committed


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
    clients_come_back(running)
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


async def test_an_ingress_goes_on_beside_a_dead_master(cluster: Cluster) -> None:
    """What waits for the shards of the dead master stops no event for the others."""
    running = await started(cluster)
    ways = {number: await cluster.master_of(KEYS.ingress(number)) for number in range(INGRESSES)}
    nodes = await cluster.master_of(KEYS.nodes)
    victim = next(one for one in cluster.nodes[:MASTERS] if one is not nodes and set(ways.values()) != {one})
    lives: dict[bool, LiveSession] = {}
    while len(lives) < 2:
        live = await running.listening()
        lives[await cluster.master_of(KEYS.inbox(KEYS.shard_of(live.session_id))) is victim] = live
    for server in cluster.nodes:
        await server.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    await cluster.nodes[cluster.nodes.index(victim) + MASTERS].kill()  # nobody takes over
    await victim.kill()
    running.node.report(SttPartial(session_id=lives[True].session_id, text="waits"))
    way, server = next((KEYS.ingress(number), server) for number, server in ways.items() if server is not victim)
    for number in (1, 2):  # the second is read when the cursor has moved past the first
        words = f'{{"type": "STT_PARTIAL", "session_id": "{lives[False].session_id}", "text": "{number}"}}'
        await server.ask("XADD", way, "*", "e", words)
        await running.watch.event(lives[False].session_id, SttPartial, number)
    assert running.node.queued
    await running.node.stop()


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
    with pytest.raises(RedisSetupError, match=r"is a Redis Cluster: .* redis\+cluster://"):
        await node.start()
    await node.stop()


async def test_a_moved_key_loses_no_other_reply_when_the_slot_table_cannot_be_read(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that succeeded would otherwise look as if it had failed."""
    await soon_in_redis(cluster.is_whole)
    redis = connect(cluster.url)
    assert isinstance(redis, RedisCluster)
    wire = ClusterWire(redis)
    here = await master(redis, KEYS.feed(0))
    feeds = map(KEYS.feed, range(KEYS.shards))
    elsewhere = next(feed for feed in feeds if redis.get_node_from_key(feed) != here)
    monkeypatch.setattr(type(redis.nodes_manager), "initialize", refuses)
    added, moved = await wire.call(KEYS.feed(0), [("INCR", f"{KEYS.feed(0)}:n"), ("XLEN", elsewhere)])
    assert added == 1
    assert isinstance(moved, MovedError)
    await wire.close()
    await redis.aclose()


async def refuses(*_: object, **__: object) -> None:
    raise ClusterDownError("nobody tells")


@pytest.mark.parametrize("end", [Server.kill, Server.pause], ids=["it is gone", "it does not answer"])
async def test_commands_about_all_shards_find_the_master_that_has_followed(
    end: Callable[[Server], Awaitable[None]], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked of the others is answered meanwhile."""
    monkeypatch.setattr("orchestrator.runtime.redis.wire.TIMEOUT_S", 0.5)
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


async def test_a_command_finds_the_master_that_has_followed_a_silent_one(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py would ask the silent one for ever: it reads the slot table again after its own errors alone."""
    redis = connect(cluster.url)
    await redis.set(KEYS.feed(0), "1")
    monkeypatch.setattr("orchestrator.runtime.redis.wire.TIMEOUT_S", 0.5)
    await (await cluster.master_of(KEYS.feed(0))).pause()
    with pytest.raises(RedisTimeoutError):
        await redis.exists(KEYS.feed(0))

    async def answers() -> bool:
        try:
            return bool(await redis.exists(KEYS.feed(0)))
        except RedisError:
            return False

    await soon_in_redis(answers)
    await redis.aclose()


async def _in_a_context(redis: Redis) -> None:
    async with redis:
        pass


@pytest.mark.parametrize(
    "ask",
    [
        lambda redis: redis.get("key"),
        lambda redis: redis.blpop(["key"], timeout=1),
        lambda redis: redis.info("memory", target_nodes=RedisCluster.PRIMARIES),
        lambda redis: redis.pipeline().get("key").execute(),
        lambda redis: anext(redis.scan_iter()),
        lambda redis: run_all(redis, [("GET", "key")]),
        lambda redis: run_ids(redis, 2_000),
        _in_a_context,
    ],
    ids=["command", "that blocks", "to nodes", "pipeline", "scan", "run_all", "run_ids", "context"],
)
async def test_a_cluster_of_which_no_node_is_reached_is_an_error_of_redis(
    ask: Callable[[Redis], Awaitable[object]],
) -> None:
    """redis-py raises RedisClusterException, which is none: whoever tries again after each RedisError would end."""
    redis = connect("redis+cluster://127.0.0.1:1")
    with pytest.raises(RedisError, match="cannot be connected"):
        await ask(redis)
    await redis.aclose()


async def test_a_slot_without_a_master_is_an_error_of_redis(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py's SlotNotCoveredError is none, either. The run ids of other keys are told all the same."""
    redis = connect(cluster.url)
    assert isinstance(redis, RedisCluster)
    await redis.ping()
    of = await run_ids(cast("Redis", redis), 2_000)
    assert of("key")
    monkeypatch.setattr(type(redis.nodes_manager), "get_node_from_slot", not_covered)
    for send in (redis.get("key"), redis.exists("key")):
        with pytest.raises(ClusterDownError, match="is not covered"):
            await send
    redis.nodes_manager.slots_cache.pop(redis.keyslot("key"))
    with pytest.raises(ClusterDownError, match="no master has key"):
        await master(redis, "key")
    assert of("key") == ""
    await redis.aclose()


def not_covered(*_: object) -> None:
    raise SlotNotCoveredError("the slot is not covered")


async def test_a_node_goes_on_when_a_whole_cluster_comes_back(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It listens for handovers and watches the memory of Redis as before, and takes its calls over."""
    monkeypatch.setattr(room, "LOOK_S", 0.05)
    caplog.set_level(logging.INFO)
    running = await started(cluster)
    live = await running.listening()
    tasks = [task for task in asyncio.all_tasks() if task.get_name() in ("handed over", "room in Redis")]
    for server in cluster.nodes:
        await server.kill()
    for words in ("not listening for what is handed over", "Redis does not say how full it is"):
        await soon(lambda words=words: caplog.text.count(words) > 2)  # type: ignore[misc]
    for server in cluster.nodes:
        await server.start()
    await running.watch.event(live.session_id, SessionResumed)
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await running.watch.event(live.session_id, SttFinal)
    assert [task.done() for task in tasks] == [False, False]
    await running.node.stop()


async def test_the_history_goes_on_through_the_loss_of_a_master(cluster: Cluster, tmp_path: Path) -> None:
    """What SQL has is what the logs say afterwards, also where the replica had not got everything. Then it is archived
    and purged, master by master.
    """
    running = await started(cluster)
    projecting = await projecting_started(cluster.url, KEYS, sqlite(tmp_path))
    talked = [await talk(running) for _ in range(3)]
    live = await running.listening()
    victim = await cluster.master_of(KEYS.log(live.session_id))
    clients_come_back(running)
    await victim.kill()
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await running.watch.event(live.session_id, SessionResumed)
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
        purged = {one: words async for one, words in purge(redis, KEYS, history, 2**53, is_dry=False)}
    assert outcomes == purged == dict.fromkeys(talked, "")
    assert await list_sessions(redis, KEYS) == {live.session_id: True}
    await redis.aclose()
