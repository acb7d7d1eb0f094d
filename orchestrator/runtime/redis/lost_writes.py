"""Finds the writes that Redis lost in a restart or failover, by comparing Redis with the writes this node remembers.

With `appendfsync always` no acknowledged write is lost. With `everysec`, or after a failover, up to about two seconds
may be lost. Only this process knows which of its writes Redis accepted or committed: it logs exactly which are lost,
and appends its own accepted events again.
"""

import logging
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import MovedError, RedisError, ResponseError

from events.codec import decode
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.redis.commit import position
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.wire import Exchange

logger = logging.getLogger(__name__)

REMEMBERED = 128
"""How many entries per shard and steps per session are remembered: more than two seconds of one call."""
SESSIONS_REMEMBERED = 1_000
"""How many sessions are remembered, those with the latest steps; some 20 MB at most."""


class SecondLifeError(RedisError):
    """The new connection leads to a Redis that has lost accepted entries; they must be appended again first."""


class Accepted:
    """The last entries per shard that Redis accepted from this process, in case Redis loses them."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._last: defaultdict[int, deque[tuple[bytes, bytes]]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self.lost: dict[int, list[bytes]] = {}
        """Shard → lines to append again, before any newer line."""

    def note(self, shard: int, ids: list[bytes], lines: list[bytes]) -> None:
        """Note entries that Redis has acknowledged. They include the lost lines, so none are lost any more."""
        self._last[shard].extend(zip(ids, lines, strict=True))
        self.lost.pop(shard, None)

    async def compare(self, exchange: Exchange) -> None:
        """Check, on each new connection, that Redis still has the entries it accepted. Missing entries are put into
        `lost`, to be appended again; raises SecondLifeError then. `exchange` sends commands on that connection.
        """
        found = False
        for shard, entries in self._last.items():
            stream = self._keys.inbox(shard)
            (reply,) = await exchange([("XINFO", "STREAM", stream)])
            if isinstance(reply, MovedError):
                continue  # on another master of the cluster
            there = _last_id(reply)
            again = [line for entry, line in entries if position(entry.decode()) > position(there)]
            if again:
                logger.error(
                    "Redis lost %d accepted entries of %s, after %s: appended again", len(again), stream, there
                )
                self.lost[shard] = self.lost.get(shard, []) + again
                entries.clear()
                found = True
        if found:
            raise SecondLifeError("Redis has lost what it had accepted")


@dataclass(slots=True)
class _Seen:
    """The last steps of a session (version and state hash of each) and the run id of the server that has them."""

    server: str = ""
    steps: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))


class Committed:
    """The last versions of each session that this node has committed."""

    def __init__(self, redis: Redis, keys: Keys, counters: Counters) -> None:
        self._redis = redis
        self._keys = keys
        self._counters = counters
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def note(self, session_id: str, server: str, version: int, state_hash: str) -> None:
        """Note that a step up to this version is committed. `server` is the run id of the server."""
        seen = self._seen.get(session_id)
        if seen is None:
            seen = self._seen[session_id] = _Seen()
            if len(self._seen) > SESSIONS_REMEMBERED:
                self._seen.popitem(last=False)
        self._seen.move_to_end(session_id)
        seen.server = server
        seen.steps.append((version, state_hash))

    async def compare(self, servers: Callable[[str], str]) -> None:
        """Find the lost versions of each session whose Redis server was restarted or replaced since the last call; log
        and count them. `servers`: key → run id of its server, which differs after a restart. Raises RedisError.
        """
        for session_id, seen in list(self._seen.items()):
            key = self._keys.log(session_id)
            if (server := servers(key)) in ("", seen.server):
                continue
            before, seen.server = seen.server, server
            if before:
                await self._compare(session_id, seen)

    async def _compare(self, session_id: str, seen: "_Seen") -> None:
        newest = seen.steps[-1][0]
        while seen.steps and not await self._is_there(session_id, *seen.steps[-1]):
            seen.steps.pop()
        kept = seen.steps[-1][0] if seen.steps else 0
        if kept < newest:
            self._counters["lost_versions"] += newest - kept
            logger.error("Redis lost versions %d to %d of %s, which were committed", kept + 1, newest, session_id)
        if not seen.steps:
            del self._seen[session_id]

    async def _is_there(self, session_id: str, version: int, state_hash: str) -> bool:
        """Whether the log has this version with this state hash. If the log was archived and removed, only the stored
        number of its last version can be compared.
        """
        log, entry = self._keys.log(session_id), f"0-{version}"
        found: Any = await self._redis.xrange(log, entry, entry)
        if not found and not await self._redis.exists(log):
            return int(await self._redis.hget(self._keys.state(session_id), "version") or 0) >= version
        return bool(found) and decode(found[0][1][b"e"].rpartition(b"\n")[2]).state_hash == state_hash


def _last_id(reply: Any) -> str:
    """Return the last id that a stream has generated, from a reply to XINFO STREAM; "0-0": there is no such stream."""
    if isinstance(reply, ResponseError):
        return "0-0"
    fields = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    return str(fields[b"last-generated-id"].decode())
