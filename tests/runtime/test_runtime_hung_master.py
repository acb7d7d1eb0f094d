"""A master of a Redis Cluster that hangs takes only its own shards along: leases on the other masters are kept."""

import time
from collections.abc import AsyncIterator

import pytest

from events.inputs import SessionResumed, SttPartial
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node
from orchestrator.runtime.redis.keys import Keys
from tests.runtime.redis_cluster import MASTERS, Cluster
from tests.runtime.redis_cluster import Node as Server
from tests.runtime.support import Running, Stubs, Watch, soon_in_redis

KEYS = Keys(shards=12)
LEASE_MS = 1_000
LEASES = 5
"""For how many lease durations the leases must be kept."""


async def masters(cluster: Cluster, *, has_nodes: bool) -> tuple[Server, dict[int, Server]]:
    """A master to hang, which has the table of nodes or has not; and the shards of the other masters."""
    nodes = await cluster.master_of(KEYS.nodes)
    victim = next(one for one in cluster.nodes[:MASTERS] if (one is nodes) is has_nodes)
    owners = {number: await cluster.master_of(KEYS.lease(number)) for number in range(KEYS.shards)}
    return victim, {number: server for number, server in owners.items() if server is not victim}


async def hang(cluster: Cluster, victim: Server) -> None:
    """The master hangs for good: it has no replica any more. The other masters serve their slots on."""
    for server in cluster.nodes:
        await server.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    await cluster.nodes[cluster.nodes.index(victim) + MASTERS].kill()
    await victim.pause()


async def session_on(running: Running, shards: set[int]) -> LiveSession:
    """A session on one of these shards."""
    while True:
        live = await running.listening()
        if KEYS.shard_of(live.session_id) in shards:
            return live


@pytest.fixture
async def running(cluster: Cluster) -> AsyncIterator[Running]:
    """A node on the cluster."""
    stubs, watch = Stubs(), Watch()
    node = Node(cluster.url, stubs.services(), observer=watch, keys=KEYS, lease_ms=LEASE_MS)
    await node.start()
    yield Running(node, stubs, watch)
    for server in cluster.nodes:
        await server.resume()
    await node.stop()


@pytest.mark.parametrize("has_nodes", [False, True], ids=["with shards alone", "with the table of nodes"])
async def test_a_master_that_hangs_costs_no_lease_on_the_others(
    cluster: Cluster, running: Running, has_nodes: bool
) -> None:
    """Nor a conversation there: it goes on under the same lease."""
    victim, healthy = await masters(cluster, has_nodes=has_nodes)
    live = await session_on(running, set(healthy))
    tokens = {number: running.node.shards[number].lease.token for number in healthy}
    await hang(cluster, victim)
    until_s = time.monotonic() + LEASES * LEASE_MS / 1_000

    async def kept_until_then() -> bool:
        for number, server in healthy.items():
            assert await server.ask("GET", KEYS.lease(number)) == tokens[number].encode(), KEYS.lease(number)
        return time.monotonic() > until_s

    await soon_in_redis(kept_until_then)
    running.node.report(SttPartial(session_id=live.session_id, text="still here"))
    await running.watch.event(live.session_id, SttPartial, text="still here")
    assert {number: shard.lease.token for number, shard in running.node.shards.items()}.items() >= tokens.items()
    assert not running.watch.all(live.session_id, SessionResumed)


async def test_a_shard_that_is_lost_beside_a_master_that_hangs_is_taken_again(
    cluster: Cluster, running: Running
) -> None:
    """The replies of the other masters count: the lost lease is noticed, and the free shard."""
    victim, healthy = await masters(cluster, has_nodes=False)
    live = await session_on(running, set(healthy))
    number = KEYS.shard_of(live.session_id)
    await hang(cluster, victim)
    await healthy[number].ask("DEL", KEYS.lease(number))
    await running.watch.event(live.session_id, SessionResumed)
