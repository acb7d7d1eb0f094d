"""Renews leases from a separate thread, so that a node with a busy event loop does not lose its leases.

A node that loses its leases under load makes itself and other nodes busier: its shards must be taken over, and its
clients reconnect. The thread has its own event loop and its own connection to Redis. The connection is opened by the
first command of the thread. While the node itself renews its leases in time (ownership.py), the thread sends nothing.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.runtime.fleet import lease as leases
from orchestrator.runtime.fleet.lease import Lease
from orchestrator.runtime.fleet.membership import Membership
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
        """When the node last renewed its leases, or the thread of this Renewal last tried to, whichever is later; in
        seconds of the monotonic clock.
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

    def _is_needed(self) -> bool:
        """Whether the thread must go on renewing: `stop` was not called, and the node's event loop is open.

        The thread asks in each round, because a library may swallow the cancellation that `stop` sends to the thread,
        and a node may end without calling `stop`.
        """
        assert self._home is not None, "started"
        return not self._is_stopping and not self._home.is_closed()

    async def _renew(self, redis: Redis, twin: Membership) -> None:
        """Send a sign of life for the node (not while it drains), then renew its leases. In this order, the membership
        of a dead node expires before its leases (Ownership._look).

        `twin`: a second Membership that uses the thread's own client of Redis. It gets the name and the address of the
        node.
        """
        held = self._held()
        if self.is_member:
            twin.node, twin.address = self._members.node, self._members.address
            owned: dict[str, int] = {}
            for one in held:
                owned[one.what.kind] = owned.get(one.what.kind, 0) + 1
            try:
                await twin.sign_of_life(owned)
                self._at_home(self._members.heard, twin.members)
            except RedisError as error:  # a full Redis refuses the sign of life but still renews leases
                logger.info("no sign of life: %s", error)
        if gone := await leases.renew(redis, list(held), self._lease_ms):
            self._at_home(self._lost, gone)
