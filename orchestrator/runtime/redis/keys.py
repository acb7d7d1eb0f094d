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
        """Return the number of a session's shard: the same on every machine and in every release."""
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
        """Key of the promise of a session: a client has the session's id, but the session has no log yet. The key
        expires, like every key that Redis has of the session before its first input.
        """
        return self._in(self.shard_of(session_id), f"promised:{session_id}")

    def rejoined(self, session_id: str) -> str:
        """Key of a sorted set with one member, `used`. The score of `used` is the number of the newest resume token
        that the client has used. A client shows a resume token when it reconnects to its session.
        """
        return self._in(self.shard_of(session_id), f"rejoined:{session_id}")

    def sessions(self, shard: int) -> str:
        return self._in(shard, "sessions")

    def feed(self, shard: int) -> str:
        return self._in(shard, "feed")

    def positions(self, shard: int) -> str:
        """Key of a hash: projection → number of the last feed pointer that the projection has written to its own store.
        Commits trim the feed only up to the lowest of these numbers. But a feed never keeps more than about a million
        pointers.
        """
        return self._in(shard, "positions")

    def unroutable(self, shard: int) -> str:
        return self._in(shard, "unroutable")

    def shard(self, shard: int) -> str:
        return self._in(shard, "shard")

    def lease(self, shard: int) -> str:
        return self._in(shard, "lease")

    def ingress(self, number: int, name: str = "") -> str:
        """Key of the stream of an ingress, `number` 0 to INGRESSES - 1. With `name`, another key of the same ingress:
        `owned` (hash: token of the owner, address of the owner's node, cursor), `lease`, `unroutable` (dead letters),
        `sessions` (always empty; the script that acquires leases expects this key, since shards have one).
        """
        stream = f"{self.prefix}:ingress:{{{number}}}"
        return f"{stream}:{name}" if name else stream

    def handler(self, handler_id: str) -> str:
        return f"{self.prefix}:handler:{handler_id}"

    def token(self, token: str) -> str:
        """Key that holds the id of the session that a caller's token opens. `token`: a hash of the id in that token."""
        return f"{self.prefix}:token:{token}"

    def of_subject(self, subject: str) -> str:
        """Key of the list of session ids of a subject; `subject` is a hash of the subject's name. The list exists only
        if a grant limits the number of sessions.
        """
        return f"{self.prefix}:subject:{subject}"

    @property
    def nodes(self) -> str:
        """Key of the hash of live nodes (membership.py)."""
        return f"{self.prefix}:nodes"

    def handed(self, node: str) -> str:
        """Key of the list to which other nodes push the names of shards and ingresses that they hand over to `node`.
        That node waits for these names with BLPOP.
        """
        return f"{self.prefix}:handed:{node}"

    @property
    def secret(self) -> str:
        """Key of the secret that signs resume tokens, written at the first start. A client gets a resume token for its
        session, and shows the token when it reconnects to that session.
        """
        return f"{self.prefix}:secret"

    @property
    def shard_count(self) -> str:
        """Key of the number of shards, written at the first start."""
        return f"{self.prefix}:shards"
