"""Renews leases from a separate thread, so that a node with a busy event loop does not lose its leases.

A node that loses its leases under load makes itself and other nodes busier: its shards must be taken over, and its
clients reconnect. The thread has its own event loop and its own connection to Redis. The connection is opened by the
first command of the thread; in a cluster, the thread reads the slot table when it starts. While the node itself renews
its leases in time (ownership.py), the thread sends nothing.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

from orchestrator.runtime.fleet import lease as leases
from orchestrator.runtime.fleet.lease import Lease
from orchestrator.runtime.fleet.membership import EXPIRES_MS, Membership
from orchestrator.runtime.redis import cluster
from orchestrator.runtime.redis.keys import Keys
from orchestrator.teardown import end_within

logger = logging.getLogger(__name__)

HUNG_LEASES = 3
"""If the node's event loop is blocked for this many lease durations, it counts as hung. The thread then renews no more
leases, so that other nodes take over the sessions. Load alone never blocks the loop for 6 s (3 leases of 2 s).
"""
BEATS_PER_LEASE = 8


class Renewal:
    """Renews a node's leases whenever the node itself has not renewed them for half a lease duration."""

    def __init__(
        self,
        connect: Callable[[], Redis],
        keys: Keys,
        members: Membership,
        lease_ms: int,
        *,
        held: Callable[[], Sequence[Lease]],
        lost: Callable[[Sequence[Lease]], None],
    ) -> None:
        """`held`: returns the leases to renew; called in the thread. `lost`: called on the node's event loop, with the
        leases that this node has lost.
        """
        self.renewed_s = time.monotonic()
        """When the node began its last renewal of the leases that worked, or the thread of this Renewal last tried one,
        whichever is later; in seconds of the monotonic clock.
        """
        self.is_member = True
        """Whether the thread sends signs of life. A draining node sends none."""
        self._connect = connect
        self._keys = keys
        self._members = members
        self._lease_ms = lease_ms
        self._held = held
        self._lost = lost
        self._beat_s = time.monotonic()
        self._home: asyncio.AbstractEventLoop | None = None
        self._beating: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        """Set when the thread has ended."""
        self._is_stopping = False
        self._stop: Callable[[], object] = lambda: None

    def start(self) -> None:
        started = threading.Event()
        self._home = asyncio.get_running_loop()
        self._beating = asyncio.create_task(self._beat(), name="lease heartbeat")
        threading.Thread(target=self._work, args=(started,), name="leases", daemon=True).start()
        started.wait()

    async def stop(self) -> None:
        """End the thread and wait for its end. If the thread hangs, it is left behind: a daemon thread keeps no process
        alive.
        """
        if self._beating is None:
            return
        self._is_stopping = True
        with contextlib.suppress(RuntimeError):  # the thread has ended already
            self._stop()
        await end_within("the thread that renews leases", self._ended.wait())
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)

    async def _beat(self) -> None:
        """Record the time again and again, on the node's event loop. The thread sees from it that the loop is not
        blocked.
        """
        while True:
            self._beat_s = time.monotonic()
            await asyncio.sleep(self._lease_ms / BEATS_PER_LEASE / 1_000)

    def _work(self, started: threading.Event) -> None:
        asyncio.run(self._run(started))
        with contextlib.suppress(RuntimeError):  # the node's event loop was closed before the node was stopped
            self._at_home(self._ended.set)

    def _at_home(self, call: Callable[..., object], *args: object) -> None:
        """Schedule a function call on the node's event loop, and return at once. Raises RuntimeError if that loop is
        closed.
        """
        assert self._home is not None, "started"
        self._home.call_soon_threadsafe(call, *args)

    async def _run(self, started: threading.Event) -> None:
        working = asyncio.create_task(self._keep())
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(working.cancel)
        started.set()
        await asyncio.gather(working, return_exceptions=True)

    async def _keep(self) -> None:
        redis = self._connect()
        twin = Membership(redis, self._keys, self._lease_ms)
        try:
            if isinstance(redis, RedisCluster):
                await self._learn(redis)
            while self._is_needed():
                await asyncio.sleep(max(0.0, self.renewed_s + self._lease_ms / 2_000 - time.monotonic()))
                if time.monotonic() < self.renewed_s + self._lease_ms / 2_000:
                    continue  # the node itself has renewed the leases meanwhile
                self.renewed_s = time.monotonic()  # also if this attempt fails: the next one follows half a lease later
                if time.monotonic() - self._beat_s > HUNG_LEASES * self._lease_ms / 1_000:
                    logger.error("the event loop has not turned for %d leases: they run out", HUNG_LEASES)
                    continue
                try:
                    await self._renew(redis, twin)
                except (RedisError, OSError) as error:
                    logger.info("leases could not be renewed in time: %s", error)
                except Exception:
                    logger.exception("leases could not be renewed in time")
        finally:
            await redis.aclose()

    async def _learn(self, redis: RedisCluster) -> None:
        """Read the slot table now: the node that the URL names may not answer when a lease must be renewed."""
        try:
            await cluster.learn(redis)
        except RedisError as error:
            logger.info("the thread that renews leases does not know the masters yet: %s", error)

    def _is_needed(self) -> bool:
        """Whether the thread must go on renewing: `stop` was not called, and the node's event loop is open.

        The thread asks in each round, because a library may swallow the cancellation that `stop` sends to the thread,
        and a node may end without calling `stop`.
        """
        assert self._home is not None, "started"
        return not self._is_stopping and not self._home.is_closed()

    async def _renew(self, redis: Redis, twin: Membership) -> None:
        """Send a sign of life for the node (not while it drains), then renew its leases. In this order, the membership
        of a dead node expires before its leases (Ownership._look). A sign of life that takes longer than EXPIRES_MS
        delays the renewal no further: in a cluster, it goes to a master that may hang while others are well.

        `twin`: a second Membership that uses the thread's own client of Redis. It gets the name and the address of the
        node.
        """
        held = self._held()
        signing = asyncio.create_task(self._sign(twin, held))
        try:
            await asyncio.wait({signing}, timeout=EXPIRES_MS / 1_000)
            if gone := await leases.renew(redis, list(held), self._lease_ms):
                self._at_home(self._lost, gone)
            await signing
        finally:
            signing.cancel()

    async def _sign(self, twin: Membership, held: Sequence[Lease]) -> None:
        """Tell Redis that this node is alive and holds these leases, unless the node drains. A failure is only logged.
        `twin`: the members table of this thread, with the name and address of this node.
        """
        if not self.is_member:
            return
        twin.node, twin.address = self._members.node, self._members.address
        try:
            await twin.sign_of_life(Counter(one.what.kind for one in held))
        except (RedisError, OSError) as error:  # a full Redis refuses the sign of life but still renews leases
            logger.info("no sign of life: %s", error)
        else:
            self._at_home(self._members.heard, twin.members)
