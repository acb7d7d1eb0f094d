"""The base class of shards and ingresses. Each runs under one lease and reads one stream, until the lease is lost."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from events.envelope import Input
from orchestrator.grant import Grant
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.fleet.lease import Lease
from orchestrator.runtime.inbox import Inbox
from orchestrator.runtime.redis.cluster import ClusterWire
from orchestrator.runtime.redis.commit import Committer, LostOwnershipError, Move
from orchestrator.runtime.redis.connection import Entry
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.wire import Wire

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """Resources of the node that all its shards and ingresses use."""

    redis: Redis
    wire: Wire | ClusterWire
    keys: Keys
    inbox: Inbox
    counters: Counters
    opened: Callable[[str, Grant], Input]
    """Makes the SESSION_OPENED event of a session from the session id and the grant of the session's client."""
    wake: asyncio.Event
    """Set it to make the node check its leases at once: a shard or ingress that is lost needs a new owner."""


class Owned:
    """A shard or an ingress that this node owns, from the acquisition of its lease to the loss or release."""

    def __init__(self, means: Means, lease: Lease, server: str) -> None:
        """`server` is the run id of the Redis server when the lease was acquired."""
        self.lease = lease
        self.lost = asyncio.Event()
        """Set when this node loses or gives up the shard or ingress: nothing more may be committed or carried out."""
        self._redis = means.redis
        self._keys = means.keys
        self._inbox = means.inbox
        self._counters = means.counters
        self._wake = means.wake
        self._committer = Committer(means.redis, means.wire, lease.what.owned, lease.token, server)
        self._cursor = lease.cursor

    @property
    def calls(self) -> int:
        """Number of conversations that move to another node when this shard or ingress is handed over."""
        return 0

    async def take_over(self) -> None:
        """Rebuild the live sessions that a previous owner left (an ingress has none). Raises RedisError."""

    async def handle(self, batch: list[Entry]) -> None:
        """Process the next entries of the stream; called by FastStream. Never raises: after a failure, the whole shard
        or ingress counts as lost.
        """
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
        """Process entries and commit the results. Raises LostOwnershipError (the lease is lost) or RedisError."""
        raise NotImplementedError

    async def give_up(self) -> None:
        """End all work that was started under this lease, and wait for its end. The caller then releases the lease."""
        self.lost.set()

    async def send_away(self, reason: str, address: str) -> None:
        """Disconnect the clients. They reconnect to the new owner at `address`; if `address` is empty, to any node."""

    def _pass(self, before: str, entry_id: str, reason: str, *kept: Any) -> Move:
        """Return a move that sets the cursor from `before` to the entry `entry_id`, and commits no step. With a
        `reason`, the move also stores the entry as a dead letter.

        `kept`: two texts for the dead letter: the event, and the version of the session at which it failed (may be
        empty).
        """
        what = self.lease.what
        return Move("pass", [what.owned, what.dead_letters, what.stream], before, entry_id, (reason, *kept))
