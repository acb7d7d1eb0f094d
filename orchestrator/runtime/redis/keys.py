"""The names of all keys in Redis, the number of shards, and the shard of each session."""

from dataclasses import dataclass
from zlib import crc32

INGRESSES = 4
"""Number of ingress streams. A producer always writes to the same stream, so that its events keep their order."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Makes the names of keys. Keys of one shard share a hash tag, so Redis Cluster keeps them in one slot."""

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

    def promised(self, session_id: str) -> str:
        """Key of a promised session: a client has its id, but it is not open yet. The key expires. Until the session's
        first input, Redis has no other key of it.
        """
        return self._in(self.shard_of(session_id), f"promised:{session_id}")

    def rejoined(self, session_id: str) -> str:
        """Sorted set with one member, `used`: the number of the newest resume token that the client has used."""
        return self._in(self.shard_of(session_id), f"rejoined:{session_id}")

    def sessions(self, shard: int) -> str:
        return self._in(shard, "sessions")

    def feed(self, shard: int) -> str:
        return self._in(shard, "feed")

    def positions(self, shard: int) -> str:
        """Hash of projection → number of the last feed pointer that the projection has written to its own store.
        Commits trim the feed only up to the lowest of these numbers.
        """
        return self._in(shard, "positions")

    def unroutable(self, shard: int) -> str:
        return self._in(shard, "unroutable")

    def shard(self, shard: int) -> str:
        return self._in(shard, "shard")

    def lease(self, shard: int) -> str:
        return self._in(shard, "lease")

    def ingress(self, number: int, name: str = "") -> str:
        """The stream of an ingress; with `name`, a key that belongs to it (owned, lease, sessions, unroutable)."""
        stream = f"{self.prefix}:ingress:{{{number}}}"
        return f"{stream}:{name}" if name else stream

    def handler(self, handler_id: str) -> str:
        return f"{self.prefix}:handler:{handler_id}"

    def token(self, token: str) -> str:
        """Holds the id of the session that a caller's token opens; `token` is a hash of the token's id."""
        return f"{self.prefix}:token:{token}"

    def of_subject(self, subject: str) -> str:
        """List of the sessions of a caller who may have a limited number; `subject` is a hash of the caller's name."""
        return f"{self.prefix}:subject:{subject}"

    @property
    def nodes(self) -> str:
        """Hash of the live nodes (membership.py)."""
        return f"{self.prefix}:nodes"

    def handed(self, node: str) -> str:
        """List on which a node blocks: the names of the shards and ingresses that were handed over to it."""
        return f"{self.prefix}:handed:{node}"

    @property
    def secret(self) -> str:
        """Holds the secret key of the resume tokens, written at first start."""
        return f"{self.prefix}:secret"

    @property
    def shard_count(self) -> str:
        """Holds the number of shards, written at first start."""
        return f"{self.prefix}:shards"
