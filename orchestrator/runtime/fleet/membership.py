"""Membership: which nodes are alive, which are silent, and how a node tells another node about a handover.

One hash in Redis has a field for each member: when the node joined, its last sign of life, how much it owns, and its
address. All nodes compute their shares from this hash. Each node writes its own field three times per lease duration,
by a Lua script. The script takes the time from Redis, so that no two clocks are compared. It also removes nodes that
were silent for a lease duration. There is no key per node, because only a SCAN over every master would find such keys.
Membership only decides how much a node wants to own; the leases decide who owns each shard and ingress.

A node that hands over a shard or ingress pushes the name of the shard or ingress to a list of the receiving node. The
receiving node waits for it with BLPOP. A list is used and not pub/sub: a node that is busy for a moment still finds the
message.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import uuid4

from redis.asyncio import Redis

from orchestrator.runtime.fleet import exchange
from orchestrator.runtime.fleet.fair_share import Member
from orchestrator.runtime.redis.connection import evalsha
from orchestrator.runtime.redis.keys import Keys

logger = logging.getLogger(__name__)

BLOCK_S = 4
CONNECT_S = 0.5
_PORTS = {"http": 80, "https": 443}
EXPIRES_MS = 50
"""Longest expected time, in ms, between a node's sign of life and the renewal of its leases, which follows it. Both
last `lease_ms`. So the leases of a dead node expire up to EXPIRES_MS after its membership.
"""
WORD_S = 5
"""How long, in seconds, a handover message is kept for a node that does not listen."""


class Membership:
    """Makes this node a member: sends its signs of life (heartbeats), and reads the other members from the replies."""

    def __init__(self, redis: Redis, keys: Keys, lease_ms: int) -> None:
        self.node = f"node-{uuid4().hex[:12]}"
        self.address = ""
        """Where clients reach this node directly. Empty: no client is sent to this node."""
        self.members: list[Member] = []
        """All live nodes, including this node, as of this node's last sign of life."""
        self._redis = redis
        self._keys = keys
        self._lease_ms = lease_ms
        self._heard_s = time.monotonic()

    @property
    def silence_s(self) -> float:
        """Seconds since Redis last stored a sign of life of this node; normally at most a third of a lease duration."""
        return time.monotonic() - self._heard_s

    async def sign_of_life(self, owned: Mapping[str, int]) -> None:
        """Tell Redis that this node is alive and how much it owns. Update `members` from the reply. Raises RedisError.

        `owned`: "shard" → number of shards that this node owns, "ingress" → number of ingresses.
        """
        self.heard(await self._call(self._lease_ms, json.dumps({"address": self.address, "owned": owned})))

    def heard(self, members: list[Member]) -> None:
        """Record that Redis has stored a sign of life of this node. `members`: all live nodes, as Redis has replied."""
        self.members = members
        self._heard_s = time.monotonic()

    async def leave(self) -> list[Member]:
        """Remove this node from the members. Returns the nodes to which this node may hand over its shards and
        ingresses: those with a recent sign of life (`reachable`) or, if there are none, all other members. Raises
        RedisError.

        A member without a recent sign of life may only be slow, and clients need the address of a new owner. If that
        member is dead, the shards handed over to it stay reserved for lease.KEPT_MS; then any node may take over.
        """
        self.members = await self._call(0, "")
        return self.reachable() or [one for one in self.members if one.node != self.node]

    def reachable(self) -> list[Member]:
        """The other nodes that sent a sign of life within half a lease duration. The rest may be dead."""
        return [one for one in self.members if one.node != self.node and one.silent_ms <= self._lease_ms / 2]

    def shows_life(self, address: str) -> bool:
        """Whether a node at this address sent a sign of life at most half a lease duration ago."""
        return any(one.address == address and one.silent_ms <= self._lease_ms / 2 for one in self.members)

    def next_look_s(self) -> float:
        """Return the seconds until this node checks leases and members again: a third of the lease duration, or less if
        the leases of a silent node expire sooner.
        """
        silent = (one.silent_ms for one in self.members if one.node != self.node)
        return min(self._lease_ms / 3, max(0, self._lease_ms - max(silent, default=0)) + EXPIRES_MS) / 1_000

    async def answers(self, address: str) -> bool:
        """Whether a node at this address sent a sign of life at most half a lease duration ago, and accepts a
        connection now. A process that was killed a moment ago accepts no connection.
        """
        if not self.shows_life(address):
            return False
        url = urlsplit(address)
        try:
            async with asyncio.timeout(CONNECT_S):
                _, writer = await asyncio.open_connection(url.hostname, url.port or _PORTS.get(url.scheme))
        except (OSError, ValueError) as error:
            logger.info("nobody answers at %s: %s", address, error or "it takes too long")
            return False
        writer.close()
        return True

    def settled(self) -> list[Member]:
        """The nodes that joined at least one lease duration ago. Only they get surplus shards: a newer node may leave
        again soon.
        """
        return [one for one in self.members if one.age_ms >= self._lease_ms]

    async def tell(self, heir: str, names: Sequence[str]) -> None:
        """Tell the node `heir` that it may take the shards or ingresses with these names now. Raises RedisError."""
        word = self._keys.handed(heir)
        await exchange.run_all(self._redis, [("RPUSH", word, *names), ("EXPIRE", word, WORD_S)], self._lease_ms)

    async def told(self) -> str:
        """Wait until another node hands a shard or ingress over to this node, and return the name of the shard or
        ingress. Empty: nothing was handed over within BLOCK_S seconds. Raises RedisError.
        """
        said = await cast("Any", self._redis.blpop([self._keys.handed(self.node)], timeout=BLOCK_S))
        return said[1].decode() if said else ""

    async def _call(self, lease_ms: int, row: str) -> list[Member]:
        silent_ms = int(1_000 * self.silence_s)
        said = [self.node, lease_ms, row, silent_ms]
        (rows,) = await exchange.run_all(self._redis, [evalsha("member", [self._keys.nodes], said)], self._lease_ms)
        members = []
        for node, age_ms, since_ms, words in rows:
            facts = json.loads(words)
            members.append(Member(node.decode(), age_ms, since_ms, facts["address"], facts["owned"]))
        return members
