"""A fleet, its producers and its callers over one Redis: started together, hurt by faults, checked when all is over."""

import asyncio
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import aiohttp
from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.runtime.redis.keys import Keys
from tests.chaos import watch
from tests.chaos.caller import Caller
from tests.chaos.checkers import Findings, check
from tests.chaos.fleet import Fleet
from tests.chaos.producer import producers
from tests.chaos.redis_server import RedisServer


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    nodes: int = 2
    sessions: int = 20
    producers: int = 4
    rate_hz: float = 200
    """Events of all producers together; each question leads to as many again inside."""
    appendfsync: str = "everysec"
    hostile: tuple[str, ...] = ()
    """Behaviours of bench/hostile_clients.py, each of which each node has for as long as it lives."""


@dataclass
class World:
    """`async with World(Size(), seed) as world:` is under load; then hurt it, and ask for the `findings`."""

    size: Size
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    """The faults so far."""
    take_overs_ms: list[float] = field(default_factory=list)
    returns_ms: list[float] = field(default_factory=list)
    """From a Redis that is ready again to everything handled that waited in it."""
    round_trips_ms: list[float] = field(default_factory=list)
    """Of a bare PING under load."""
    cut: list[int] = field(default_factory=list)
    """Bytes that were cut off the append-only file."""
    lost_versions: list[dict[str, tuple[int, int]]] = field(default_factory=list)
    """With each cut: session → the last version that was left, and the last there had been."""
    restarted: bool = False
    """The last fault was one of Redis."""

    async def __aenter__(self) -> Self:
        self.chance = random.Random(self.seed)
        self.keys = Keys()
        self._stack = AsyncExitStack()
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        stack, size = self._stack, self.size
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orch-chaos-")))
        self.server = await stack.enter_async_context(RedisServer(size.appendfsync))
        self.redis = await stack.enter_async_context(Redis.from_url(self.server.url, socket_timeout=None))
        self.fleet = Fleet(self.server.url, folder, size.hostile)
        stack.push_async_callback(self.fleet.end)
        await asyncio.gather(*(self.fleet.spawn() for _ in range(size.nodes)))
        await watch.shared(self.redis, self.keys, size.nodes)  # else all callers of the last one share its first shard
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        self.callers: list[Caller] = []
        self._load: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        stack.push_async_callback(self._hang_up)
        while len(self.callers) < size.sessions:
            some = [Caller(http, self.fleet.any_address) for _ in range(min(10, size.sessions - len(self.callers)))]
            self.callers += some
            await asyncio.gather(*(caller.listening() for caller in some))
        sessions = [caller.session_id for caller in self.callers]
        self.producers = producers(self.server.url, self.keys, size.producers, self.chance)
        self._began_s = time.monotonic()
        each_hz = size.rate_hz / size.producers
        self._load = [
            asyncio.create_task(one.run(sessions[number :: size.producers], each_hz, self._stop))
            for number, one in enumerate(self.producers)
        ]
        self._load.append(asyncio.create_task(self._probe()))

    async def _probe(self) -> None:
        """How long a round trip takes, whenever there is a Redis."""
        while not self._stop.is_set():
            began_s = time.monotonic()
            with suppress(RedisError, OSError):
                await self.redis.ping()
                self.round_trips_ms.append((time.monotonic() - began_s) * 1_000)
            await asyncio.sleep(0.1)

    async def hurt(self, fault: Callable[["World"], Awaitable[None]], count: int = 1) -> None:
        """Do it so many times; each time the world has recovered before it goes on."""
        for _ in range(count):
            await asyncio.sleep(self.chance.uniform(0.2, 1))  # whatever is going on then
            await fault(self)
            self.done[getattr(fault, "__name__", "fault")] += 1
            began_s = time.monotonic()
            await watch.recovered(self.redis, self.keys)
            if self.restarted:
                self.returns_ms.append((time.monotonic() - began_s) * 1_000)
                self.restarted = False

    def keep(self) -> Path:
        """A copy of what the nodes have written until now, which outlives this world."""
        return Path(shutil.copytree(self.fleet.folder, tempfile.mkdtemp(prefix="orch-stuck-"), dirs_exist_ok=True))

    async def findings(self, *, may_lose: bool = False) -> Findings:
        """End the load, wait until everything is handled, kill the nodes so that nothing moves, and check."""
        self._stop.set()
        await asyncio.gather(*self._load)
        self.loaded_s = time.monotonic() - self._began_s
        await self.fleet.send_hostile_away()
        await watch.all_handled(self.redis, self.keys)
        await self.fleet.end()
        await self._hang_up()
        found = await check(self.redis, self.keys, self.producers, self.callers, self.fleet.notes, may_lose=may_lose)
        found.violations += self.fleet.tracebacks()
        self._compare_what_the_nodes_miss(found)
        return found

    def _compare_what_the_nodes_miss(self, found: Findings) -> None:
        """Each loss they report is one. What a node never saw committed it cannot miss: the steps of an earlier owner,
        and the last steps, whose reply was under way.
        """
        lost = [(session, *versions) for cut in self.lost_versions for session, versions in cut.items()]
        missed = self.fleet.missed_versions()
        found.counts["versions lost"] = sum(last - kept for _, kept, last in lost)
        found.counts["versions missed"] = sum(last - kept for _, kept, last in missed)
        found.violations += [
            f"{session} is said to have lost versions {kept + 1} to {last}, but has not"
            for session, kept, last in missed
            if not any(session == loss[0] and loss[1] <= kept and last <= loss[2] for loss in lost)
        ]

    async def _hang_up(self) -> None:
        self._stop.set()
        for load in self._load:
            load.cancel()
        await asyncio.gather(*self._load, return_exceptions=True)
        await asyncio.gather(*(caller.leave() for caller in self.callers))
