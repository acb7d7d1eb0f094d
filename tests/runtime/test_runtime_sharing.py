"""Sharing: nodes that come get their share, nodes that go leave theirs, and nothing moves that need not."""

import asyncio
from collections.abc import Callable

import pytest

from events.derived import StateChanged
from events.inputs import SessionResumed, SttFinal
from orchestrator.runtime.fleet import lease as leases
from orchestrator.runtime.fleet.fair_share import fair_share
from orchestrator.runtime.fleet.membership import Membership
from orchestrator.runtime.node import Node
from orchestrator.runtime.shard import Shard
from tests.runtime.conftest import MakeNode, Place
from tests.runtime.support import PATIENCE_S, Running, StubClient, a_session_on, soon, soon_in_redis

LEASE_MS = 300


def owned(*nodes: Running) -> list[int]:
    return [len(one.node.shards) for one in nodes]


def ingresses(node: Node) -> int:
    return sum(holding.owner.lease.what.kind == "ingress" for holding in node._ownership.running.values())


async def shared_evenly(*nodes: Running) -> None:
    """Everything is owned, and no node has two shards or ingresses more than another."""

    def are_even(counts: list[int]) -> bool:
        return sum(counts) == 4 and max(counts) - min(counts) <= 1

    await soon(lambda: are_even(owned(*nodes)) and are_even([ingresses(one.node) for one in nodes]))


async def looks(running: Running, count: int) -> None:
    """So many looks of a node at its leases from now on."""
    ownership, seen = running.node._ownership, 0
    look = ownership._look

    async def counted() -> None:
        nonlocal seen
        await look()
        seen += 1

    ownership._look = counted  # type: ignore[method-assign]
    await soon(lambda: seen >= count)
    ownership._look = look  # type: ignore[method-assign]


async def test_the_first_node_takes_everything_at_once(make_node: MakeNode) -> None:
    """It waits for nobody."""
    first = await make_node()
    assert owned(first) == [4]
    assert ingresses(first.node) == 4


async def test_nodes_that_come_get_their_share(make_node: MakeNode) -> None:
    """Shards and ingresses; the oldest keeps what cannot be divided."""
    first = await make_node(lease_ms=LEASE_MS)
    second = await make_node(lease_ms=LEASE_MS)
    await shared_evenly(first, second)
    assert owned(first, second) == [2, 2]
    assert [ingresses(one.node) for one in (first, second)] == [2, 2]
    nodes = (first, second, await make_node(lease_ms=LEASE_MS))

    def shares() -> list[int]:
        """By age as all see it: on a busy machine one may be silent for a lease, and counts as new after that."""
        members = first.node._members.members
        return [fair_share(4, members, one.node._members.node) for one in nodes]

    await soon(lambda: sorted(shares()) == [1, 1, 2] and owned(*nodes) == shares())
    await soon(lambda: [ingresses(one.node) for one in nodes] == shares())


async def test_nothing_moves_once_everybody_has_a_share(make_node: MakeNode) -> None:
    """The tokens are the same ten looks later."""
    nodes = [await make_node(lease_ms=LEASE_MS) for _ in range(3)]
    await shared_evenly(*nodes)
    tokens = {n: shard.lease.token for one in nodes for n, shard in one.node.shards.items()}
    await asyncio.gather(*(looks(one, 10) for one in nodes))
    assert {n: shard.lease.token for one in nodes for n, shard in one.node.shards.items()} == tokens


async def test_a_node_that_comes_and_goes_moves_nothing(make_node: MakeNode, place: Place) -> None:
    """Who has not been there for a lease gets nothing: flapping nodes cost no call its place."""
    first = await make_node(lease_ms=LEASE_MS)
    tokens = {n: shard.lease.token for n, shard in first.node.shards.items()}
    for _ in range(3):
        flapping = Membership(place.redis, place.keys, LEASE_MS)
        await flapping.sign_of_life({})
        await looks(first, 2)
        assert flapping.node in {one.node for one in first.node._members.members}
        await flapping.leave()
    await looks(first, 1)
    assert {n: shard.lease.token for n, shard in first.node.shards.items()} == tokens


async def test_a_node_that_died_is_forgotten_and_its_share_taken(make_node: MakeNode, place: Place) -> None:
    """Its leases expire and so does its row in the table; the others share what it had."""
    dead = Membership(place.redis, place.keys, LEASE_MS)
    await dead.sign_of_life({"shard": 4})
    held = await leases.acquire(place.redis, [leases.shard(place.keys, n) for n in range(4)], LEASE_MS, "", dead.node)
    assert len(held) == 4
    nodes = [await make_node(lease_ms=LEASE_MS) for _ in range(2)]
    await shared_evenly(*nodes)
    assert dead.node not in {one.node for one in nodes[0].node._members.members}


async def test_shards_without_calls_are_given_away_first(make_node: MakeNode) -> None:
    """Two calls on two shards stay where they are; the idle ones move."""
    first = await make_node(lease_ms=5 * LEASE_MS)
    busy: set[int] = set()
    while len(busy) < 2:
        busy.add(first.node.keys.shard_of((await first.listening()).session_id))
    second = await make_node(lease_ms=5 * LEASE_MS)
    await shared_evenly(first, second)
    assert set(first.node.shards) == busy
    assert not any(client.sent_away for client in first.clients)


async def test_a_shard_with_a_call_is_handed_to_its_heir_without_waiting_for_a_look(make_node: MakeNode) -> None:
    """Leases of a minute: neither node looks by itself, and still the call goes on at once, its client knows where."""
    first = await make_node(lease_ms=60_000)
    second = await make_node(lease_ms=60_000)
    first.node.address, second.node.address = "http://first", "http://second"
    first.stubs.hold("answer")
    live = await first.listening(StubClient())
    first.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await soon(lambda: bool(first.stubs.keys("answer")))
    ownership = first.node._ownership
    await ownership._look()  # to see that there is a second node, and its address
    await second.node._ownership._look()
    await ownership._look()
    (heir,) = ownership._members.reachable()
    name = leases.shard(first.node.keys, first.node.keys.shard_of(live.session_id)).name
    ownership.hand_over(name, heir)
    await second.watch.event(live.session_id, SessionResumed)
    await second.watch.phase(live.session_id, "SPEAKING")
    await soon(lambda: bool(first.clients[0].sent_away))
    assert first.stubs.cancelled == ["answer"]
    assert first.clients[0].sent_to == ["http://second"]
    assert second.stubs.keys("answer") == first.stubs.keys("answer")
    assert not first.watch.all(live.session_id, StateChanged, to_phase="SPEAKING")


async def test_the_other_node_does_not_wait_for_a_client_that_is_slow_to_leave(make_node: MakeNode) -> None:
    """The call goes on at the new owner while its client still hangs up at the old one."""
    first, farewell = await make_node(lease_ms=60_000), asyncio.Event()

    class SlowClient(StubClient):
        async def send_away(self, reason: str, address: str = "") -> None:
            await farewell.wait()

    live = await first.listening(SlowClient())
    second = await make_node(lease_ms=60_000)
    stopping = asyncio.create_task(first.node.stop())
    await second.watch.event(live.session_id, SessionResumed)
    assert not stopping.done()
    farewell.set()
    await stopping


async def test_what_is_kept_for_a_node_that_died_is_free_again_soon(make_node: MakeNode, place: Place) -> None:
    """An heir that never comes keeps nobody waiting."""
    (lease,) = await leases.acquire(place.redis, [leases.shard(place.keys, 0)], 60_000, "here", "one")
    await leases.release(place.redis, [lease], "heir", "there")
    assert await leases.acquire(place.redis, [lease.what], 60_000, "here", "one") == []
    assert await leases.address(place.redis, lease.what, "one") == "there"
    assert await leases.address(place.redis, lease.what, "heir") is None
    await soon_in_redis(lambda: _is_free(place, lease))
    (again,) = await leases.acquire(place.redis, [lease.what], 60_000, "here", "one")
    await leases.release(place.redis, [again])


async def test_nobody_is_sent_to_a_node_that_is_silent(make_node: MakeNode, place: Place) -> None:
    """Its lease holds still, but it is dead: who comes for one of its conversations waits here for the take-over."""
    dead = Membership(place.redis, place.keys, 2 * LEASE_MS)
    dead.address = "http://dead"
    await dead.sign_of_life({"shard": 1})
    held = await leases.acquire(place.redis, [leases.shard(place.keys, 0)], 1_000, dead.address, dead.node)
    assert len(held) == 1
    running = await make_node(lease_ms=LEASE_MS)
    session_id = a_session_on(place.keys, 0)
    await soon(lambda: not running.node._members.shows_life(dead.address))
    assert not running.node.owns(session_id)
    assert await running.node.find(session_id) == ""
    assert running.node.owns(session_id)


async def _is_free(place: Place, lease: leases.Lease) -> bool:
    return bool(await leases.free(place.redis, [lease.what], 60_000))


def slow_take_overs(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """From now on: set when the takeover of a shard has begun, and to be set so that it goes on."""
    taking, may_go_on, take_over = asyncio.Event(), asyncio.Event(), Shard.take_over

    async def take_long(self: Shard) -> None:
        taking.set()
        await may_go_on.wait()
        await take_over(self)

    monkeypatch.setattr(Shard, "take_over", take_long)
    return taking, may_go_on


async def taking_long(
    first: Running, second: Running, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Callable[[], None]]:
    """The second hands a shard to the first, who has not taken it over until the function is called."""
    await shared_evenly(first, second)
    await looks(second, 2)
    name = min(one for one in second.node._ownership.running if one.startswith("shard"))
    (heir,) = second.node._members.reachable()
    taking, may_go_on = slow_take_overs(monkeypatch)
    second.node._ownership.hand_over(name, heir)
    async with asyncio.timeout(PATIENCE_S):
        await taking.wait()
    return name, may_go_on.set


async def test_a_take_over_that_takes_long_costs_no_other_lease(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a busy node loses what it has to others, who are busier for it, and lose it too."""
    first, second = [await make_node(lease_ms=LEASE_MS) for _ in range(2)]
    await shared_evenly(first, second)
    mine = dict(first.node.shards)
    _, go_on = await taking_long(first, second, monkeypatch)
    await looks(second, 9)  # three leases long
    go_on()
    assert mine.items() <= first.node.shards.items()
    assert not any(shard.lost.is_set() for shard in mine.values())


async def test_a_take_over_that_takes_long_costs_no_lease_that_was_acquired_with_it(
    make_node: MakeNode, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shards without calls wait until those with calls are taken over; they must not expire meanwhile."""
    lease_ms = 900
    first = await make_node(lease_ms=lease_ms)
    live = await first.listening()
    await first.node.stop()
    taking, go_on = slow_take_overs(monkeypatch)
    starting = asyncio.create_task(make_node(lease_ms=lease_ms))
    async with asyncio.timeout(PATIENCE_S):
        await taking.wait()
    leased = [place.keys.lease(number) for number in range(place.keys.shards)]
    tokens = await place.redis.mget(leased)
    idle = next(one for one in leased if one != place.keys.lease(place.keys.shard_of(live.session_id)))

    async def is_fresh(expected: bool) -> bool:
        return (await place.redis.pttl(idle) > 2 / 3 * lease_ms) is expected

    await soon_in_redis(lambda: is_fresh(False))
    await soon_in_redis(lambda: is_fresh(True))  # it was renewed
    go_on.set()
    shards = (await starting).node.shards
    assert [shards[number].lease.token.encode() for number in sorted(shards)] == tokens


async def test_a_shard_that_is_lost_while_it_is_taken_over_is_left(
    make_node: MakeNode, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not read, and somebody takes it anew."""
    first, second = [await make_node(lease_ms=LEASE_MS) for _ in range(2)]
    name, go_on = await taking_long(first, second, monkeypatch)
    holding = first.node._ownership.running[name]
    await place.redis.delete(holding.owner.lease.what.lease)
    await soon(holding.owner.lost.is_set)
    go_on()
    await shared_evenly(first, second)
    assert not holding.subscription.running
    assert "could not be kept" not in caplog.text


async def test_a_node_that_drains_deals_its_calls_out_to_the_others(make_node: MakeNode) -> None:
    """Not ready from the first moment, no new call, and every shard goes to a node that was there."""
    first, second, third = [await make_node(lease_ms=60_000) for _ in range(3)]
    lives = [await first.listening() for _ in range(6)]
    draining = asyncio.create_task(first.node.drain())
    await asyncio.sleep(0)
    assert not first.node.ready
    async with asyncio.timeout(PATIENCE_S):
        await draining
    await soon(lambda: owned(first, second, third) == [0, 2, 2])
    for live in lives:
        new = next(one for one in (second, third) if one.node.owns(live.session_id))
        await new.watch.event(live.session_id, SessionResumed)
    assert [client.sent_away for client in first.clients] == [["the service is stopping"]] * 6
    await first.node.stop()


async def test_a_node_that_drains_hands_over_to_a_slow_node_rather_than_to_nobody(
    make_node: MakeNode, place: Place
) -> None:
    """The only other one has been silent for most of a lease, on a busy machine: clients still learn where it is."""
    first = await make_node(lease_ms=60_000)
    await first.listening()
    slow = Membership(place.redis, place.keys, lease_ms=60_000)
    slow.address = "http://slow"
    await slow.sign_of_life({})
    since, seen, rest = (await place.redis.hget(place.keys.nodes, slow.node)).decode().split(" ", 2)  # type: ignore[union-attr]
    await place.redis.hset(place.keys.nodes, slow.node, f"{since} {int(seen) - 50_000} {rest}")
    await first.node.drain()
    assert first.clients[0].sent_to == ["http://slow"]
    assert {leases.shard(place.keys, number).name for number in range(4)} <= {await slow.told() for _ in range(8)}


async def test_what_somebody_waits_for_is_handed_over_before_all_else(make_node: MakeNode, place: Place) -> None:
    """An heir that takes idle shards meanwhile would keep a caller waiting."""
    first = await make_node(lease_ms=60_000)
    live = await first.listening()
    heir = Membership(place.redis, place.keys, lease_ms=60_000)
    heir.address = "http://heir"
    await heir.sign_of_life({})
    await first.node.drain()
    told = [(await heir.told()) for _ in range(8)]
    idle = [leases.shard(place.keys, n).name for n in range(4) if n != place.keys.shard_of(live.session_id)]
    assert set(told[-3:]) == set(idle)


async def test_a_node_that_drains_alone_gives_everything_back(make_node: MakeNode) -> None:
    """The next start goes on from there at once."""
    first = await make_node(lease_ms=60_000)
    live = await first.listening()
    await first.node.drain()
    assert first.clients[0].sent_to == [""]
    second = await make_node(lease_ms=60_000)
    await second.watch.event(live.session_id, SessionResumed)
