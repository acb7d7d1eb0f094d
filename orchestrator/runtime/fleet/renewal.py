"""Renews leases from a separate thread, so that a node with a busy event loop does not lose its leases.

A node that loses its leases under load makes itself and other nodes busier: its shards must be taken over, and its
callers reconnect. The thread has its own event loop and its own connection to Redis, opened when first needed: while
the node itself renews in time (ownership.py), the thread sends nothing.
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
"""How long the node's event loop may be blocked before it counts as hung, in lease durations. The thread then renews no
more, and another node takes over the calls. Load alone never blocks the loop for 6 s (3 leases of 2 s).
"""
BEATS_PER_LEASE = 8


class Renewal:
    """Renews a node's leases whenever the node itself has not renewed them for half a lease."""

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
        """`held` returns the leases to renew; the thread calls it. `lost` is called on the node's event loop, with the
        leases that are lost.
        """
        self.renewed_s = time.monotonic()
        """When the last renewal was done or tried, by the monotonic clock."""
        self.is_member = True
        """Whether to send signs of life; a draining node sends none."""
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
        """End the thread, and wait for it. A thread that hangs is left behind: it is a daemon, so the process ends."""
        if self._beating is None:
            return
        self._is_stopping = True
        with contextlib.suppress(RuntimeError):  # the thread has ended already
            self._stop()
        await end_within("the thread that renews leases", self._ended.wait())
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)

    async def _beat(self) -> None:
        """Note the time again and again: by this heartbeat, the thread sees that the node's event loop is running."""
        while True:
            self._beat_s = time.monotonic()
            await asyncio.sleep(self._lease_ms / BEATS_PER_LEASE / 1_000)

    def _work(self, started: threading.Event) -> None:
        asyncio.run(self._run(started))
        with contextlib.suppress(RuntimeError):  # the node's event loop was closed before the node was stopped
            self._at_home(self._ended.set)

    def _at_home(self, call: Callable[..., object], *args: object) -> None:
        """Schedule a function on the node's event loop, and return at once. Raises RuntimeError if that loop is
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
                    continue  # a look has renewed them meanwhile
                self.renewed_s = time.monotonic()  # the time of this attempt
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
        """Whether the thread must go on: the node is not stopping, and its event loop is open. Checked because a
        library may swallow the cancellation of the thread's work, and a node may end without `stop`.
        """
        assert self._home is not None, "started"
        return not self._is_stopping and not self._home.is_closed()

    async def _renew(self, redis: Redis, twin: Membership) -> None:
        """Send a sign of life in the name of the node, then renew its leases: the same order as in ownership.py."""
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
