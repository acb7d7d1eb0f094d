"""Membership: which nodes there are and which is silent, and how one tells another what it has handed to it.

The members are the fields of one hash; each node writes its own three times per lease, in a script that takes the time
from Redis, so that no two clocks are compared, and forgets whoever was silent for a lease. One key, and not one key per
node with an expiry: reading it is one round trip on one slot, where finding keys would be a SCAN over every master; and
the row can hold since when the node is there, what it owns and its address, so that all nodes compute shares from the
same table. It decides only how much a node wants: who owns what is decided by the leases.

A node that gives something to another says so in a list of the other's own, on which the other blocks. There is no
pub/sub: whoever is busy for a moment finds the word when it looks again.
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

from orchestrator.runtime.connection import evalsha, run_all
from orchestrator.runtime.keys import Keys
from orchestrator.runtime.share import Member

logger = logging.getLogger(__name__)

BLOCK_S = 4
CONNECT_S = 0.5
_PORTS = {"http": 80, "https": 443}
EXPIRES_MS = 50
"""A node renews its leases so soon after its sign of life, so they expire so soon after it is given up."""
WORD_S = 5
"""How long a word for a node that does not listen is kept."""


class Membership:
    """One node among the others."""

    def __init__(self, redis: Redis, keys: Keys, lease_ms: int) -> None:
        self.node = f"node-{uuid4().hex[:12]}"
        self.address = ""
        """Where clients reach this very node; empty: nobody is sent to it."""
        self.members: list[Member] = []
        """All nodes, this one among them, at the last sign of life."""
        self._redis = redis
        self._keys = keys
        self._lease_ms = lease_ms
        self._heard_s = time.monotonic()

    @property
    def silence_s(self) -> float:
        """Since when Redis has taken no sign of life; where all is well it grows to a third of a lease, no more."""
        return time.monotonic() - self._heard_s

    async def sign_of_life(self, owned: Mapping[str, int]) -> None:
        """Say that we are there and what we own, and see who else is. Raises RedisError."""
        self.members = await self._call(self._lease_ms, json.dumps({"address": self.address, "owned": owned}))
        self._heard_s = time.monotonic()

    async def leave(self) -> list[Member]:
        """Be a member no more; returns who is left to take what we own. Raises RedisError.

        Where nobody can be reached just now, it is whoever has been silent for less than a lease: on a busy machine
        nodes are slow, and one that is gone is no worse an heir than nobody. Only where there is one, clients are told
        where to go.
        """
        self.members = await self._call(0, "")
        return self.reachable() or [one for one in self.members if one.node != self.node]

    def reachable(self) -> list[Member]:
        """The others that showed a sign of life just now: one that is silent may be gone."""
        return [one for one in self.members if one.node != self.node and one.silent_ms <= self._lease_ms / 2]

    def shows_life(self, address: str) -> bool:
        """Whether there is a node at this address; one that is silent may be gone."""
        return any(one.address == address and one.silent_ms <= self._lease_ms / 2 for one in self.members)

    def next_look_s(self) -> float:
        """After a look, until the next: a third of a lease; sooner where what a silent node had will be free sooner."""
        silent = (one.silent_ms for one in self.members if one.node != self.node)
        return min(self._lease_ms / 3, max(0, self._lease_ms - max(silent, default=0)) + EXPIRES_MS) / 1_000

    async def answers(self, address: str) -> bool:
        """As shows_life, and somebody accepts connections there: a process that was killed a moment ago does not."""
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
        """Who has been there for a lease: a node that comes and goes moves nothing."""
        return [one for one in self.members if one.age_ms >= self._lease_ms]

    async def tell(self, heir: str, names: Sequence[str]) -> None:
        """Let a node know that it may take these now. Raises RedisError."""
        word = self._keys.handed(heir)
        await run_all(self._redis, [("RPUSH", word, *names), ("EXPIRE", word, WORD_S)])

    async def told(self) -> str:
        """The name of something that was handed to us; empty when nothing was for a while. Raises RedisError."""
        said = await cast("Any", self._redis.blpop([self._keys.handed(self.node)], timeout=BLOCK_S))
        return said[1].decode() if said else ""

    async def _call(self, lease_ms: int, row: str) -> list[Member]:
        (rows,) = await run_all(self._redis, [evalsha("member", [self._keys.nodes], [self.node, lease_ms, row])])
        members = []
        for node, age_ms, silent_ms, said in rows:
            facts = json.loads(said)
            members.append(Member(node.decode(), age_ms, silent_ms, facts["address"], facts["owned"]))
        return members
