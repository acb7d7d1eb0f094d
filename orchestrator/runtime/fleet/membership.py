"""Membership: which nodes are alive, which are silent, and how a node tells another about a handover.

The members are the fields of one hash. Each node writes its own field three times per lease, in a script that takes the
time from Redis (so no two clocks are compared) and removes nodes that were silent for a lease. It is one key, not one
key per node with an expiry: reading it is one round trip on one slot, while finding keys would take a SCAN over every
master. The field also holds when the node joined, how much it owns and its address, so that all nodes compute shares
from the same table. Membership only decides how much a node wants; the leases decide who owns each shard and ingress.

A node that hands over a shard or ingress pushes the name of it to a list of the receiving node, on which the receiver
blocks. A list and not pub/sub: a node that is busy for a moment still finds the message.
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

from orchestrator.runtime.fleet.fair_share import Member
from orchestrator.runtime.redis.connection import evalsha, run_all
from orchestrator.runtime.redis.keys import Keys

logger = logging.getLogger(__name__)

BLOCK_S = 4
CONNECT_S = 0.5
_PORTS = {"http": 80, "https": 443}
EXPIRES_MS = 50
"""Limit on the delay between a node's sign of life and the renewal of its leases. The leases of a dead node expire at
most this much later than its membership.
"""
WORD_S = 5
"""How long a handover message is kept for a node that does not listen."""


class Membership:
    """The membership of this node, and its view of the other nodes."""

    def __init__(self, redis: Redis, keys: Keys, lease_ms: int) -> None:
        self.node = f"node-{uuid4().hex[:12]}"
        self.address = ""
        """Where clients reach this node directly; empty: no client is sent to it."""
        self.members: list[Member] = []
        """All nodes, including this one, as of this node's last sign of life."""
        self._redis = redis
        self._keys = keys
        self._lease_ms = lease_ms
        self._heard_s = time.monotonic()

    @property
    def silence_s(self) -> float:
        """Time since Redis last took a sign of life of this node. Normally at most a third of a lease."""
        return time.monotonic() - self._heard_s

    async def sign_of_life(self, owned: Mapping[str, int]) -> None:
        """Report that this node is alive and how much it owns, and read the other members. Raises RedisError."""
        self.heard(await self._call(self._lease_ms, json.dumps({"address": self.address, "owned": owned})))

    def heard(self, members: list[Member]) -> None:
        """Note that Redis took a sign of life of this node and replied with the members."""
        self.members = members
        self._heard_s = time.monotonic()

    async def leave(self) -> list[Member]:
        """Leave the table of members; returns the nodes that can take over. Raises RedisError.

        Returns the reachable nodes; if there are none, all other members, which have been silent for less than a lease.
        On a busy machine nodes are slow, and a handover to a dead node is no worse than none: without a handover,
        clients get no address to reconnect to.
        """
        self.members = await self._call(0, "")
        return self.reachable() or [one for one in self.members if one.node != self.node]

    def reachable(self) -> list[Member]:
        """The other nodes whose last sign of life is at most half a lease old; a node silent for longer may be dead."""
        return [one for one in self.members if one.node != self.node and one.silent_ms <= self._lease_ms / 2]

    def shows_life(self, address: str) -> bool:
        """Whether a node at this address sent a sign of life within the last half lease."""
        return any(one.address == address and one.silent_ms <= self._lease_ms / 2 for one in self.members)

    def next_look_s(self) -> float:
        """Seconds until this node checks leases and members again: a third of a lease, or less if the leases of a
        silent node expire sooner.
        """
        silent = (one.silent_ms for one in self.members if one.node != self.node)
        return min(self._lease_ms / 3, max(0, self._lease_ms - max(silent, default=0)) + EXPIRES_MS) / 1_000

    async def answers(self, address: str) -> bool:
        """Whether a node at this address sent a sign of life within the last half lease and accepts a connection now. A
        process that was killed a moment ago accepts none.
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
        """The nodes that joined at least a lease ago. Nothing is moved to a node that joins and leaves at once."""
        return [one for one in self.members if one.age_ms >= self._lease_ms]

    async def tell(self, heir: str, names: Sequence[str]) -> None:
        """Tell the node `heir` that it may take the shards or ingresses with these names now. Raises RedisError."""
        word = self._keys.handed(heir)
        await run_all(self._redis, [("RPUSH", word, *names), ("EXPIRE", word, WORD_S)])

    async def told(self) -> str:
        """Wait until a shard or ingress is handed over to this node, and return the name of it; empty: none was within
        BLOCK_S seconds. Raises RedisError.
        """
        said = await cast("Any", self._redis.blpop([self._keys.handed(self.node)], timeout=BLOCK_S))
        return said[1].decode() if said else ""

    async def _call(self, lease_ms: int, row: str) -> list[Member]:
        silent_ms = int(1_000 * self.silence_s)
        said = [self.node, lease_ms, row, silent_ms]
        (rows,) = await run_all(self._redis, [evalsha("member", [self._keys.nodes], said)])
        members = []
        for node, age_ms, since_ms, words in rows:
            facts = json.loads(words)
            members.append(Member(node.decode(), age_ms, since_ms, facts["address"], facts["owned"]))
        return members
