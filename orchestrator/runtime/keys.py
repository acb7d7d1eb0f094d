"""The names of everything in Redis, how many shards there are, and which one a session belongs to."""

from dataclasses import dataclass
from zlib import crc32

INGRESSES = 4
"""A producer keeps to one of them, so that its events keep their order."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of one shard share a hash tag, so Redis Cluster keeps them on one slot."""

    shards: int = 64
    prefix: str = "voice"

    def shard_of(self, session_id: str) -> int:
        """The shard of a session; the same on every machine and in every release."""
        return crc32(session_id.encode()) % self.shards

    def _in(self, shard: int, name: str) -> str:
        return f"{self.prefix}:{{{shard:02d}}}:{name}"

    def inbox(self, shard: int) -> str:
        return self._in(shard, "inbox")

    def log(self, session_id: str) -> str:
        return self._in(self.shard_of(session_id), f"session:{session_id}:log")

    def state(self, session_id: str) -> str:
        return self._in(self.shard_of(session_id), f"session:{session_id}:state")

    def sessions(self, shard: int) -> str:
        return self._in(shard, "sessions")

    def feed(self, shard: int) -> str:
        return self._in(shard, "feed")

    def positions(self, shard: int) -> str:
        """Projection → the last pointer of the feed that it has in its own store; the feed is trimmed behind them."""
        return self._in(shard, "positions")

    def unroutable(self, shard: int) -> str:
        return self._in(shard, "unroutable")

    def shard(self, shard: int) -> str:
        return self._in(shard, "shard")

    def lease(self, shard: int) -> str:
        return self._in(shard, "lease")

    def ingress(self, number: int, name: str = "") -> str:
        """The stream of an ingress; with a name, what belongs to it (owned, lease, unroutable)."""
        stream = f"{self.prefix}:ingress:{{{number}}}"
        return f"{stream}:{name}" if name else stream

    def handler(self, handler_id: str) -> str:
        return f"{self.prefix}:handler:{handler_id}"

    @property
    def nodes(self) -> str:
        """Holds the nodes that are there (membership.py)."""
        return f"{self.prefix}:nodes"

    def handed(self, node: str) -> str:
        """A list on which a node blocks: the names of what was handed to it."""
        return f"{self.prefix}:handed:{node}"

    @property
    def secret(self) -> str:
        """Holds what resume tokens are made from, written at first start."""
        return f"{self.prefix}:secret"

    @property
    def shard_count(self) -> str:
        """Holds the number of shards, written at first start."""
        return f"{self.prefix}:shards"
