"""What shards and ingresses have in common: they run under one lease, read one stream, and are lost as a whole."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.runtime.cluster import ClusterWire
from orchestrator.runtime.commit import Committer, LostOwnershipError, Move
from orchestrator.runtime.connection import Entry
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.inbox import Inbox
from orchestrator.runtime.keys import Keys
from orchestrator.runtime.lease import Lease
from orchestrator.runtime.wire import Wire

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What everything that a node owns works with."""

    redis: Redis
    wire: Wire | ClusterWire
    keys: Keys
    inbox: Inbox
    counters: Counters
    wake: asyncio.Event
    """Set to let the node look at once: what is lost is taken up by the next owner, most likely the same."""


class Owned:
    """A shard or an ingress, for as long as its lease is held."""

    def __init__(self, means: Means, lease: Lease, server: str) -> None:
        """`server` is the run id of the server at the acquisition."""
        self.lease = lease
        self.lost = asyncio.Event()
        """Set when ownership is gone: nothing may be committed or performed any more."""
        self._redis = means.redis
        self._keys = means.keys
        self._inbox = means.inbox
        self._counters = means.counters
        self._wake = means.wake
        self._committer = Committer(means.redis, means.wire, lease.what.owned, lease.token, server)
        self._cursor = lease.cursor

    @property
    def calls(self) -> int:
        """How many conversations would have to move with it."""
        return 0

    async def take_over(self) -> None:
        """Make ready what an owner before left. Raises RedisError."""

    async def handle(self, batch: list[Entry]) -> None:
        """The FastStream handler. It never raises: what cannot go on is given up as a whole."""
        if self.lost.is_set():
            return
        try:
            await self._handle(batch)
        except (LostOwnershipError, RedisError) as error:
            logger.warning("%s is lost: %s", self.lease.what.name, error)
        except Exception:
            logger.exception("%s cannot go on", self.lease.what.name)
        else:
            return
        self.lost.set()
        self._wake.set()

    async def _handle(self, batch: list[Entry]) -> None:
        """Take the next entries and commit what becomes of them. Raises LostOwnershipError, RedisError."""
        raise NotImplementedError

    async def give_up(self) -> None:
        """Cancel and await everything that was started under this lease, before anybody else may begin."""
        self.lost.set()

    async def send_away(self, reason: str, address: str) -> None:
        """Ask whoever is connected to come back: to the new owner, where it is known."""

    def _pass(self, before: str, entry_id: str, reason: str, *kept: Any) -> Move:
        """Move the cursor over an entry from which nothing follows; with a reason it is kept as a dead letter."""
        what = self.lease.what
        return Move("pass", [what.owned, what.dead_letters, what.stream], before, entry_id, (reason, *kept))
