"""Ownership: what a node owns; how it takes it, also from nodes that died, keeps it, shares it, and gives it up."""

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Set
from dataclasses import dataclass
from typing import Any

from faststream.redis import RedisBroker
from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.runtime import lease as leases
from orchestrator.runtime.connection import pause_s, run_ids
from orchestrator.runtime.keys import INGRESSES, Keys
from orchestrator.runtime.lease import Lease, Ownable
from orchestrator.runtime.membership import Membership
from orchestrator.runtime.owned import Owned
from orchestrator.runtime.second_life import Committed
from orchestrator.runtime.share import Member, fair_share, gifts, heirs
from orchestrator.runtime.subscribers import Subscription

logger = logging.getLogger(__name__)

STOP_S = 5.0
"""How long a node that stops waits for a Redis that does not answer."""
MOVES = "the conversation moves to another process"
ROUNDS_TO_GIVE = 16
"""A node that owns everything gives its surplus away in about so many looks: never all calls at once."""

CALLERS_FIRST_S = 1.0
"""So long after the calls, a node that goes hands over what is idle: heirs have callers who come back to attend to."""

Servers = Callable[[str], str]
"""The run id of the server that has a key; empty: unknown."""
Gift = tuple[list[str], Member]
"""What goes to whom."""
Build = Callable[[Lease, str], Owned]
"""Makes what runs under a lease; the second argument is the run id of the server."""


@dataclass(slots=True)
class Holding:
    """Something owned and the subscription that feeds it."""

    owner: Owned
    subscription: Subscription
    server: str
    """The run id of the server at the acquisition."""
    begun: bool = False
    """Its sessions are here."""


class Ownership:
    """What one node owns. It looks three times per lease, when a silent node's leases expire, and at once when
    something was handed to it or is lost.
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
    ) -> None:
        self.running: dict[str, Holding] = {}
        self.wake = asyncio.Event()
        """Set to let the node look at once."""
        self._taken = asyncio.Event()
        """Set for an instant whenever something was taken."""
        self.draining = False
        """Nothing is taken any more."""
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
        """What is being given up; until that is done, it is not taken again."""
        self._offered: set[str] = set()
        """What another node handed to this one."""
        self._next_gift = 0.0
        self._renewed_s = 0.0
        self._looking = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take what is free, and keep it. Raises RedisError."""
        await self._look()
        self._tasks = [
            asyncio.create_task(self._keep(), name="leases"),
            asyncio.create_task(self._hold(), name="leases held"),
            asyncio.create_task(self._listen(), name="handed over"),
        ]

    async def drain(self, reason: str) -> None:
        """Hand everything over to the other nodes while its calls are alive; where there are none, give it back."""
        self.draining = True
        others: list[Member] = []
        if self._tasks:
            try:  # a look ends first, so that nothing is left half taken or half given up
                async with asyncio.timeout(STOP_S), self._looking:
                    others = await self._members.leave()
            except (TimeoutError, RedisError, OSError) as error:
                logger.warning("leaving without telling the other nodes: %s", error or "Redis does not answer")
        busy, idle = self._bequeath(others)
        handed = [self._leave(names, reason, heir) for names, heir in busy]
        await asyncio.gather(*(one.wait() for one in handed))
        if any(heir.address for _, heir in busy):
            await asyncio.sleep(CALLERS_FIRST_S)
        for names, heir in idle:
            self._leave(names, reason, heir)
        self._leave(list(self.running), reason)
        await asyncio.gather(*(task for _, task in self._leaving.values()))

    async def stop(self, reason: str) -> None:
        """As drain; then nothing is left that runs."""
        await self.drain(reason)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._leave(list(self.running), reason)  # what a look that did not end in time had still taken
        await asyncio.gather(*(task for _, task in self._leaving.values()))

    def hand_over(self, name: str, heir: Member) -> None:
        """Give something that is owned to another node, in the background."""
        self._leave([name], MOVES, heir)

    def coming(self, name: str) -> bool:
        """Whether it is ours, but its sessions are not here yet."""
        holding = self.running.get(name)
        return holding is not None and not holding.begun and not holding.owner.lost.is_set()

    async def address(self, name: str) -> str | None:
        """Where its owner, or who will be in a moment, can be reached; None: nobody owns it, or we shall, or its owner
        shows no sign of life or takes no connection: it is probably dead, and will be followed by one that is not.
        """
        if self.coming(name):
            return None
        address = await leases.address(self._redis, self._all[name], self._members.node)
        return None if address and not await self._members.answers(address) else address

    async def something_taken(self, at_most_s: float) -> None:
        """Wait until something was taken, or for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._taken.wait()

    async def _keep(self) -> None:
        """It goes on whatever happens."""
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

    async def _hold(self) -> None:
        """Renew while a look takes its time: many long conversations may be taken over in it, on a busy machine."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.0, self._renewed_s + self._lease_ms / 2_000 - loop.time()))
            if loop.time() < self._renewed_s + self._lease_ms / 2_000:
                continue
            self._renewed_s = loop.time()  # tried, that is
            try:
                if not self.draining:
                    await self._members.sign_of_life(self._owned())
                self._lose(await self._renew() & self.running.keys())
            except (RedisError, OSError) as error:
                logger.info("leases could not be renewed in time: %s", error)

    def _lose(self, gone: Set[str]) -> None:
        """Give up at once what others have now; what is just being taken over ends that first, and is left then."""
        for name in gone:
            self.running[name].owner.lost.set()
        self._leave(sorted(name for name in gone if self.running[name].begun), MOVES)
        if gone:
            self.wake.set()

    async def _listen(self) -> None:
        """Take at once what is handed to us."""
        failures = 0
        while True:
            try:
                if name := await self._members.told():
                    self._offered.add(name)
                    self.wake.set()
            except (RedisError, OSError) as error:  # the looks will find it
                logger.info("not listening for what is handed over: %s", error)
                await asyncio.sleep(pause_s(failures))
                failures += 1
            else:
                failures = 0

    async def _look(self) -> None:
        """Take what was handed to us, say that we live, renew, give the surplus away, take what is free.

        The sign of life comes before the renewal: when a node dies, its share is free before its leases are.
        """
        async with self._looking:
            servers = await run_ids(self._redis)
            await self._committed.compare(servers)  # before anything new is committed
            await self._take_offered(servers)
            if not self.draining:
                await self._members.sign_of_life(self._owned())
            await self._renew_all(servers)
            if not self.draining:
                self._give_surplus()
                await self._take_free(servers)

    def _owned(self) -> Counter[str]:
        return Counter(holding.owner.lease.what.kind for holding in self.running.values())

    def _leave_lost(self) -> None:
        """Give up what cannot go on, whether or not Redis answers."""
        lost = [
            name
            for name, holding in self.running.items()
            if holding.owner.lost.is_set() or not holding.subscription.running
        ]
        self._leave(lost, MOVES)

    async def _renew_all(self, servers: Servers) -> None:
        """What another node has taken is lost, and so is what belonged to an earlier life of the server."""
        gone = await self._renew()
        for name, holding in self.running.items():
            if servers(holding.owner.lease.what.lease) not in ("", holding.server):
                gone.add(name)
        self._leave(sorted(gone & self.running.keys()), MOVES)

    async def _renew(self) -> set[str]:
        """What is not ours any more."""
        leaving = [holding for holding, _ in self._leaving.values()]  # nobody else may begin before its effects ended
        held = [holding.owner.lease for holding in [*self.running.values(), *leaving]]
        gone = {lease.what.name for lease in await leases.renew(self._redis, held, self._lease_ms)}
        self._renewed_s = asyncio.get_running_loop().time()
        return gone

    def _give_surplus(self) -> None:
        """What we own beyond our share goes to nodes that have been there for a lease.

        It is a few at a time, those without calls first. Shares among the settled ones are never smaller than shares
        among all, by which nodes take: so nobody gives away what it would take back.
        """
        now = asyncio.get_running_loop().time()
        if now < self._next_gift:  # what was given last is not in the table yet
            return
        settled = self._members.settled()
        reachable = {one.node for one in self._members.reachable()}
        for kind, total in self._total.items():
            few = max(1, total // ROUNDS_TO_GIVE)
            to = [one for one in gifts(self._members.node, kind, total, settled) if one.node in reachable][:few]
            for name, heir in zip(self._fewest_calls_first(kind), to, strict=False):
                logger.info("%s goes to %s", name, heir.node)
                self.hand_over(name, heir)
                self._next_gift = now + self._lease_ms / 3_000

    def _fewest_calls_first(self, kind: str) -> list[str]:
        mine = [(one.owner.calls, name) for name, one in self.running.items() if one.owner.lease.what.kind == kind]
        return [name for _, name in sorted(mine)]

    def _bequeath(self, others: list[Member]) -> tuple[list[Gift], list[Gift]]:
        """Who gets what when this node goes: first what somebody waits for, then the rest.

        Calls are dealt out evenly, and none waits for the end of another.
        """
        busy: list[Gift] = []
        idle: dict[str, Gift] = {}
        for kind, total in self._total.items():
            names = self._fewest_calls_first(kind)
            for name, heir in zip(names, heirs(len(names), kind, total, others), strict=False):
                if self.running[name].owner.calls or kind == "ingress":
                    busy.append(([name], heir))
                else:
                    idle.setdefault(heir.node, ([], heir))[0].append(name)
        return busy, list(idle.values())

    async def _take_offered(self, servers: Servers) -> None:
        while self._offered and not self.draining:
            offered, self._offered = self._offered, set()
            await self._take(self._not_ours(what for name, what in self._all.items() if name in offered), servers)

    async def _take_free(self, servers: Servers) -> None:
        """Up to our share. Each node begins at another place, so that they rarely want the same."""
        members, owned = self._members.members, self._owned()
        for kind, total in self._total.items():
            room = fair_share(total, members, self._members.node) - owned[kind]
            if room <= 0:
                continue
            wanted = self._not_ours(what for what in self._all.values() if what.kind == kind)
            begin = sum(fair_share(total, members, one.node) for one in members if one.node < self._members.node)
            free = deque(await leases.free(self._redis, wanted[begin:] + wanted[:begin]))
            while free and room > 0:
                room -= await self._take([free.popleft() for _ in range(min(room, len(free)))], servers)

    def _not_ours(self, wanted: Iterable[Ownable]) -> list[Ownable]:
        return [what for what in wanted if what.name not in self.running and what.name not in self._leaving]

    async def _take(self, wanted: list[Ownable], servers: Servers) -> int:
        """How many of them are ours now."""
        got = await leases.acquire(self._redis, wanted, self._lease_ms, self._members.address, self._members.node)
        waited_for = [lease for lease in got if lease.sessions]
        for some in (waited_for, [lease for lease in got if not lease.sessions]):
            outcomes = await asyncio.gather(
                *(self._run(lease, servers(lease.what.lease)) for lease in some), return_exceptions=True
            )
            for lease, outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    ours = None if isinstance(outcome, RedisError | OSError) else outcome
                    logger.error("%s could not be taken over: %s", lease.what.name, outcome, exc_info=ours)
                    self._leave([lease.what.name], MOVES)
            self._taken.set()
            self._taken.clear()
        return len(got)

    async def _run(self, lease: Lease, server: str) -> None:
        owner = self._build(lease, server)
        subscription = Subscription(self._broker, lease.what.stream, lease.cursor, owner.handle)
        holding = self.running[lease.what.name] = Holding(owner, subscription, server)
        await owner.take_over()
        holding.begun = True
        if not owner.lost.is_set():
            await subscription.start()

    def _leave(self, names: list[str], reason: str, heir: Member | None = None) -> asyncio.Event:
        """Give up in the background: what takes its time must not cost the leases that are kept. The event is set when
        others may take it.
        """
        released = asyncio.Event()
        names = [name for name in names if name in self.running]
        if not names:
            released.set()
            return released
        given_up = [self.running.pop(name) for name in names]
        for holding in given_up:
            holding.owner.lost.set()
        task = asyncio.create_task(self._give_up(given_up, reason, heir, released), name="giving up")
        self._leaving |= {name: (holding, task) for name, holding in zip(names, given_up, strict=True)}
        task.add_done_callback(lambda _: self._left(names))
        return released

    def _left(self, names: list[str]) -> None:
        for name in names:
            del self._leaving[name]
        self.wake.set()

    async def _give_up(
        self, given_up: list[Holding], reason: str, heir: Member | None, released: asyncio.Event
    ) -> None:
        """Stop reading, cancel and await what was started, only then let others take it; at last, send clients there.

        A client that is slow to hang up keeps nobody waiting: what it still says goes to the new owner.
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
        finally:
            released.set()
        await _all_of(holding.owner.send_away(reason, address) for holding in given_up)


async def _all_of(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """One that breaks keeps none of the others from its end."""
    for error in await asyncio.gather(*parts, return_exceptions=True):
        if isinstance(error, Exception):
            logger.error("something broke while it was given up", exc_info=error)
