"""Ownership: how a node takes, renews, hands over and gives up shards and ingresses, also after another node died."""

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any

from faststream.redis import RedisBroker
from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.runtime.fleet import lease as leases
from orchestrator.runtime.fleet.exchange import run_ids
from orchestrator.runtime.fleet.fair_share import Member, fair_share, gifts
from orchestrator.runtime.fleet.handover import bequeath, fewest_calls_first
from orchestrator.runtime.fleet.holding import Holding
from orchestrator.runtime.fleet.lease import Lease, Ownable
from orchestrator.runtime.fleet.membership import Membership
from orchestrator.runtime.fleet.owned import Owned
from orchestrator.runtime.fleet.renewal import Renewal
from orchestrator.runtime.redis.connection import pause_s
from orchestrator.runtime.redis.keys import INGRESSES, Keys
from orchestrator.runtime.redis.lost_writes import Committed
from orchestrator.runtime.redis.subscribers import Subscription

logger = logging.getLogger(__name__)

STOP_S = 5.0
"""How long, in seconds, a node that stops waits for a Redis that does not answer."""
MOVES = "the conversation moves to another process"
ROUNDS_TO_GIVE = 16
"""A node that owns everything gives its surplus in about this many rounds, so that not all sessions move at once."""

CALLERS_FIRST_S = 1.0
"""On shutdown, idle shards are handed over this many seconds after busy shards (with live sessions): the clients of
busy shards wait for the takeover.
"""

Servers = Callable[[str], str]
"""Key → run id of the Redis server that has the key; empty: unknown."""
Build = Callable[[Lease, str], Owned]
"""Builds the shard or ingress that runs under a lease. The second argument is the run id of the Redis server."""


class Ownership:
    """Takes, renews and hands over the shards and ingresses of one node. Checks all leases three times per lease
    duration, when the leases of a silent node expire, and at once after each handover or loss.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        broker: RedisBroker,
        members: Membership,
        build: Build,
        committed: Committed,
        lease_ms: int,
        connect: Callable[[], Redis],
    ) -> None:
        """`build` makes the shard or ingress of an acquired lease. `committed` remembers the committed steps: each
        check of the leases begins with a search for steps that Redis has lost. `connect` makes a client of Redis for
        the thread that renews leases. That thread has its own event loop, so it cannot use the client `redis`.
        """
        self.running: dict[str, Holding] = {}
        self.wake = asyncio.Event()
        """Set it to make the node check all leases at once."""
        self._taken = asyncio.Event()
        """Set for an instant after each takeover. This wakes `something_taken`."""
        self.draining = False
        """Whether the node is leaving and takes no more shards and ingresses."""
        self._redis = redis
        self._broker = broker
        self._members = members
        self._build = build
        self._committed = committed
        self._lease_ms = lease_ms
        shards = [leases.shard(keys, number) for number in range(keys.shards)]
        self._all = {what.name: what for what in shards + [leases.ingress(keys, n) for n in range(INGRESSES)]}
        self._total = Counter[str](what.kind for what in self._all.values())
        self._leaving: dict[str, tuple[Holding, asyncio.Task[None]]] = {}
        """Name → a shard or ingress that is being given up, and the task that does this. The task ends when the lease
        is released; until then, this node does not take the shard or ingress again.
        """
        self._farewells: set[asyncio.Task[None]] = set()
        """Tasks that disconnect the clients of released shards. `drain` and `stop` wait for them."""
        self._offered: set[str] = set()
        """Names of the shards and ingresses that other nodes handed over to this node."""
        self._next_gift = 0.0
        self._renewal = Renewal(connect, keys, members, lease_ms, held=self._held, lost=self._lose)
        self._looking = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take this node's share of the free shards and ingresses, and keep their leases renewed. Raises RedisError."""
        self._renewal.start()  # before the first takeovers, which may last longer than a lease
        await self._look()
        self._tasks = [
            asyncio.create_task(self._keep(), name="leases"),
            asyncio.create_task(self._listen(), name="handed over"),
        ]

    async def drain(self, reason: str, also_leaving: Collection[str] = ()) -> None:
        """Hand all shards and ingresses with their sessions over to other nodes; without other nodes, release them.

        `reason`: text for each disconnected client. `also_leaving`: addresses of nodes that drain too, and get nothing.
        """
        self.draining, self._renewal.is_member = True, False
        others: list[Member] = []
        if self._tasks:
            try:  # a running `_look` ends first, so that no shard is left half taken or half given up
                async with asyncio.timeout(STOP_S), self._looking:
                    others = [one for one in await self._members.leave() if one.address not in also_leaving]
            except (TimeoutError, RedisError, OSError) as error:
                logger.warning("leaving without telling the other nodes: %s", str(error) or "Redis does not answer")
        busy, idle = bequeath(self.running, self._total, others)
        handed = [self._leave(names, reason, heir) for names, heir in busy]
        await asyncio.gather(*filter(None, handed))
        if any(heir.address for _, heir in busy):
            await asyncio.sleep(CALLERS_FIRST_S)
        for names, heir in idle:
            self._leave(names, reason, heir)
        self._leave([name for name, one in self.running.items() if not one.is_busy], reason)
        self._leave_each(list(self.running), reason)
        await self._all_left()

    async def stop(self, reason: str) -> None:
        """Hand over all shards and ingresses (`drain`), then end all background work. `reason`: text for clients."""
        await self.drain(reason)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._leave_each(list(self.running), reason)  # a `_look` that did not end in time may have taken more shards
        await self._all_left()
        await self._renewal.stop()

    def hand_over(self, name: str, heir: Member) -> None:
        """Hand an owned shard or ingress over to another node, in the background."""
        self._leave([name], MOVES, heir)

    def coming(self, name: str) -> bool:
        """Whether this node owns the shard or ingress with this name, but has not finished the takeover."""
        holding = self.running.get(name)
        return holding is not None and not holding.begun and not holding.owner.lost.is_set()

    async def address(self, name: str) -> str | None:
        """Find the address of the node that owns a shard or ingress, or will take it over after a handover.

        Empty: that node advertises no address. None: there is no owner; or this node is taking over; or the owner is
        probably dead (it sends no sign of life, or accepts no connection) and another node will take over.
        """
        if self.coming(name):
            return None
        address = await leases.address(self._redis, self._all[name], self._members.node)
        return None if address and not await self._members.answers(address) else address

    async def something_taken(self, at_most_s: float) -> None:
        """Wait until this node has taken over a shard or ingress, but at most `at_most_s` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._taken.wait()

    async def _keep(self) -> None:
        """Check all leases again and again (`_look`) until cancelled; no error ends the loop."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._members.next_look_s()):  # wait_for may swallow a cancellation
                    await self.wake.wait()
            self.wake.clear()
            try:
                self._leave_lost()
                await self._look()
            except (RedisError, OSError) as error:
                logger.warning("leases could not be kept: %s", error)
            except Exception:
                logger.exception("leases could not be kept")

    def _held(self) -> list[Lease]:
        """Return the leases to renew. The thread that renews leases calls this function, too."""
        # While a shard is being given up, its lease is kept: no other node may begin before all work on it has ended.
        leaving = [holding for holding, _ in list(self._leaving.values())]
        return [holding.owner.lease for holding in [*list(self.running.values()), *leaving]]

    def _lose(self, gone: Sequence[Lease]) -> None:
        """Give up the shards and ingresses of these lost leases. A takeover that still runs is finished first."""
        lost = [one.what.name for one in gone if self._runs_under(one)]
        for name in lost:
            self.running[name].owner.lost.set()
        self._leave_each(sorted(name for name in lost if self.running[name].begun), MOVES)
        if lost:
            self.wake.set()

    def _runs_under(self, lease: Lease) -> bool:
        holding = self.running.get(lease.what.name)
        return holding is not None and holding.owner.lease.token == lease.token

    async def _listen(self) -> None:
        """Wait for handovers to this node, again and again; after each, make the node check its leases at once."""
        failures = 0
        while True:
            try:
                if name := await self._members.told():
                    self._offered.add(name)
                    self.wake.set()
            except (RedisError, OSError) as error:  # the regular checks (`_look`) find free shards, too
                logger.info("not listening for what is handed over: %s", error)
                await asyncio.sleep(pause_s(failures))
                failures += 1
            else:
                failures = 0

    async def _look(self) -> None:
        """Take handed-over shards, send a sign of life, renew leases, hand over the surplus, take free shards and
        ingresses.

        Each node sends its sign of life before it renews its leases. So a dead node stops being a member before its
        leases expire: the other nodes then know already how many of its shards each of them takes.
        """
        async with self._looking:
            servers = await run_ids(self._redis, self._lease_ms)
            await self._committed.compare(servers)  # before anything new is committed
            await self._take_offered(servers)
            try:
                if not self.draining:
                    await self._members.sign_of_life(self._owned())
            except (RedisError, OSError):  # in a cluster, the masters that have the leases may be well
                await self._renew_all(servers)
                raise
            await self._renew_all(servers)
            if not self.draining:
                self._give_surplus()
                await self._take_free(servers)

    def _owned(self) -> Counter[str]:
        return Counter(holding.owner.lease.what.kind for holding in self.running.values())

    def _leave_lost(self) -> None:
        """Give up the shards and ingresses that are lost or whose stream is not read any more. Works without Redis."""
        lost = [
            name
            for name, holding in self.running.items()
            if holding.owner.lost.is_set() or not holding.subscription.running
        ]
        self._leave_each(lost, MOVES)

    async def _renew_all(self, servers: Servers) -> None:
        """Renew all leases. Give up each shard and ingress whose lease is lost, or whose Redis server was restarted:
        `servers` has another run id for it than at the acquisition.
        """
        gone = await self._renew()
        for name, holding in self.running.items():
            if servers(holding.owner.lease.what.lease) not in ("", holding.server):
                gone.add(name)
        self._leave_each(sorted(gone & self.running.keys()), MOVES)

    async def _renew(self) -> set[str]:
        """Renew all leases, and return the names of the shards and ingresses that this node has lost."""
        begun_s = time.monotonic()
        gone = await leases.renew(self._redis, self._held(), self._lease_ms)
        self._renewal.renewed_s = begun_s
        return {lease.what.name for lease in gone if self._runs_under(lease)}

    def _give_surplus(self) -> None:
        """Hand over the shards (or ingresses) that this node owns above its fair share: a few at a time, those with the
        fewest sessions first.

        This share ignores nodes that joined less than one lease duration ago. The share in `_take_free` counts all
        nodes, so it is never larger: this node takes back no shard that it has just given.
        """
        now = asyncio.get_running_loop().time()
        if now < self._next_gift:  # the last handover is not in the table of members yet
            return
        settled = self._members.settled()
        reachable = {one.node for one in self._members.reachable()}
        for kind, total in self._total.items():
            few = max(1, total // ROUNDS_TO_GIVE)
            to = [one for one in gifts(self._members.node, kind, total, settled) if one.node in reachable][:few]
            for name, heir in zip(fewest_calls_first(self.running, kind), to, strict=False):
                logger.info("%s goes to %s", name, heir.node)
                self.hand_over(name, heir)
                self._next_gift = now + self._lease_ms / 3_000

    async def _take_offered(self, servers: Servers) -> None:
        while self._offered and not self.draining:
            offered, self._offered = self._offered, set()
            await self._take(self._not_ours(what for name, what in self._all.items() if name in offered), servers)

    async def _take_free(self, servers: Servers) -> None:
        """Take free shards and ingresses up to this node's fair share. Each node begins at another shard number, so
        that two nodes rarely try to take the same shard.
        """
        members, owned = self._members.members, self._owned()
        for kind, total in self._total.items():
            room = fair_share(total, members, self._members.node) - owned[kind]
            if room <= 0:
                continue
            wanted = self._not_ours(what for what in self._all.values() if what.kind == kind)
            begin = sum(fair_share(total, members, one.node) for one in members if one.node < self._members.node)
            free = deque(await leases.free(self._redis, wanted[begin:] + wanted[:begin], self._lease_ms))
            while free and room > 0:
                room -= await self._take([free.popleft() for _ in range(min(room, len(free)))], servers)

    def _not_ours(self, wanted: Iterable[Ownable]) -> list[Ownable]:
        return [what for what in wanted if what.name not in self.running and what.name not in self._leaving]

    async def _take(self, wanted: list[Ownable], servers: Servers) -> int:
        """Acquire and start these shards and ingresses, first those with live sessions. Returns the number of acquired
        leases. `servers`: key → run id of its Redis server. The run id is stored with each lease: if it changes later,
        Redis was restarted. Leaves out a lease on a master that has not told its run id.
        """
        wanted = [what for what in wanted if servers(what.lease)]
        got = await leases.acquire(self._redis, wanted, self._lease_ms, self._members.address, self._members.node)
        # All these leases are renewed from now on: the first takeovers may take longer than a lease lasts.
        held = [self._hold(lease, servers(lease.what.lease)) for lease in got]
        waited_for = [one for one in held if one.owner.lease.sessions]
        for some in (waited_for, [one for one in held if not one.owner.lease.sessions]):
            outcomes = await asyncio.gather(*(one.begin() for one in some), return_exceptions=True)
            for one, outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    name, ours = one.owner.lease.what.name, not isinstance(outcome, RedisError | OSError)
                    logger.error("%s could not be taken over: %s", name, outcome, exc_info=outcome if ours else None)
                    self._leave([name], MOVES)
            self._taken.set()
            self._taken.clear()
        return len(got)

    def _hold(self, lease: Lease, server: str) -> Holding:
        owner = self._build(lease, server)
        subscription = Subscription(self._broker, lease.what.stream, lease.cursor, owner.handle)
        holding = self.running[lease.what.name] = Holding(owner, subscription, server)
        return holding

    def _leave_each(self, names: Iterable[str], reason: str) -> None:
        """Give up each of these shards and ingresses on its own: none waits for slow work of another."""
        for name in names:
            self._leave([name], reason)

    def _leave(self, names: list[str], reason: str, heir: Member | None = None) -> asyncio.Task[None] | None:
        """Give up the shards and ingresses with these names in the background, so that slow work does not delay the
        renewal of other leases. Returns a task that ends when other nodes, and this node, may take them over; None: no
        name is of a shard or ingress of this node.
        """
        names = [name for name in names if name in self.running]
        if not names:
            return None
        given_up = [self.running.pop(name) for name in names]
        for holding in given_up:
            holding.owner.lost.set()
        task = asyncio.create_task(self._give_up(given_up, reason, heir), name="giving up")
        self._leaving |= {name: (holding, task) for name, holding in zip(names, given_up, strict=True)}
        task.add_done_callback(lambda _: self._left(names))
        return task

    def _left(self, names: list[str]) -> None:
        for name in names:
            del self._leaving[name]
        self.wake.set()

    async def _all_left(self) -> None:
        """Wait until everything that is being given up is released and the clients are disconnected."""
        await asyncio.gather(*(task for _, task in self._leaving.values()))
        await asyncio.gather(*self._farewells)

    async def _give_up(self, given_up: list[Holding], reason: str, heir: Member | None) -> None:
        """Stop reading the streams, end all work, release the leases. Then begin to disconnect the clients, who
        reconnect to the new owner: `heir`, or the next node that takes the shard, which may be this one. Clients that
        are slow to disconnect do not delay the takeover: their further input goes to the new owner.
        """
        await _all_of(holding.subscription.stop() for holding in given_up)
        await _all_of(holding.owner.give_up() for holding in given_up)
        address = heir.address if heir else ""
        held = [holding.owner.lease for holding in given_up]
        try:
            await leases.release(self._redis, held, heir.node if heir else "", address)
            if heir:
                await self._members.tell(heir.node, [lease.what.name for lease in held])
        except (RedisError, OSError) as error:
            logger.warning("leases could not be released (%s); they expire", error)
        leaving = _all_of(holding.owner.send_away(reason, address) for holding in given_up)
        farewell = asyncio.create_task(leaving, name="sending clients away")
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)


async def _all_of(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run every coroutine; log failures. One failure does not cancel the other coroutines."""
    for error in await asyncio.gather(*parts, return_exceptions=True):
        if isinstance(error, Exception):
            logger.error("something broke while it was given up", exc_info=error)
