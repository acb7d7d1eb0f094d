"""The base class of shards and ingresses: each runs under one lease, reads one stream, and is lost as a whole."""

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
    """The node's resources that its shards and ingresses share."""

    redis: Redis
    wire: Wire | ClusterWire
    keys: Keys
    inbox: Inbox
    counters: Counters
    opened: Callable[[str, Grant], Input]
    """Makes the SESSION_OPENED event of a session id, for a client with this grant."""
    wake: asyncio.Event
    """Set to make the node check its leases at once: a lost shard or ingress needs a new owner, probably this node."""


class Owned:
    """A shard or an ingress, for as long as its lease is held."""

    def __init__(self, means: Means, lease: Lease, server: str) -> None:
        """`server` is the run id of the Redis server when the lease was acquired."""
        self.lease = lease
        self.lost = asyncio.Event()
        """Set when ownership is lost: nothing more may be committed or performed."""
        self._redis = means.redis
        self._keys = means.keys
        self._inbox = means.inbox
        self._counters = means.counters
        self._wake = means.wake
        self._committer = Committer(means.redis, means.wire, lease.what.owned, lease.token, server)
        self._cursor = lease.cursor

    @property
    def calls(self) -> int:
        """How many conversations move to another node when this shard or ingress is handed over."""
        return 0

    async def take_over(self) -> None:
        """Rebuild the state that a previous owner left. Raises RedisError."""

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
        """Process the next entries and commit the results. Raises LostOwnershipError, RedisError."""
        raise NotImplementedError

    async def give_up(self) -> None:
        """Cancel and await everything that was started under this lease, before another node may take it."""
        self.lost.set()

    async def send_away(self, reason: str, address: str) -> None:
        """Ask the connected clients to reconnect: to the new owner's address, if it is known."""

    def _pass(self, before: str, entry_id: str, reason: str, *kept: Any) -> Move:
        """Build the move of the cursor from `before` past an entry that changes no session. With a reason, the entry is
        kept as a dead letter.
        """
        what = self.lease.what
        return Move("pass", [what.owned, what.dead_letters, what.stream], before, entry_id, (reason, *kept))
