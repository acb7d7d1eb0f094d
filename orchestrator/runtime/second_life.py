"""A Redis that was started again may lack its last writes: what this node knows of them, held against what is there.

With `appendfsync always` nothing acknowledged is missing; with `everysec`, or after a failover, up to about two seconds
may be. What this process saw accepted or committed is the only witness of it: it says exactly what is gone, and events
of its own that were accepted are appended again.
"""

import logging
from collections import OrderedDict, defaultdict, deque
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from events.codec import decode
from orchestrator.runtime.commit import position
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.keys import Keys
from orchestrator.runtime.wire import Exchange

logger = logging.getLogger(__name__)

REMEMBERED = 128
"""Entries of a stream, or steps of a session: more than two seconds of one call."""
SESSIONS_REMEMBERED = 10_000


class SecondLifeError(RedisError):
    """The connection leads to another life of the server than before: look first at what it has lost."""


class Accepted:
    """The last entries that Redis has accepted from one producer, per shard, in case it loses them."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._server = ""
        self._last: defaultdict[int, deque[tuple[str, bytes]]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self.lost: dict[int, list[bytes]] = {}
        """By shard, what must be appended again, before anything newer."""

    def note(self, shard: int, ids: list[bytes], lines: list[bytes]) -> None:
        """Redis has acknowledged these, and what was lost before is among them."""
        self._last[shard].extend((entry.decode(), line) for entry, line in zip(ids, lines, strict=True))
        self.lost.pop(shard, None)

    async def compare(self, exchange: Exchange) -> None:
        """Called with each new connection. Raises SecondLifeError when the server is not the one it was, once."""
        server = _run_id(await exchange([("INFO", "server")]))
        if self._server in ("", server):
            self._server = server
            return
        for shard, entries in self._last.items():
            stream = self._keys.inbox(shard)
            there = _last_id(*await exchange([("XINFO", "STREAM", stream)]))
            again = [line for entry, line in entries if position(entry) > position(there)]
            if again:
                logger.error(
                    "Redis lost %d accepted entries of %s, after %s: appended again", len(again), stream, there
                )
                self.lost[shard] = self.lost.get(shard, []) + again
        self._last.clear()
        self._server = server
        raise SecondLifeError("Redis was started again")


class Committed:
    """The last versions of each session that this node has seen committed."""

    def __init__(self, redis: Redis, keys: Keys, counters: Counters) -> None:
        self._redis = redis
        self._keys = keys
        self._counters = counters
        self._seen: OrderedDict[str, deque[tuple[int, str]]] = OrderedDict()

    def note(self, session_id: str, version: int, state_hash: str) -> None:
        """A step up to this version is committed."""
        seen = self._seen.get(session_id)
        if seen is None:
            seen = self._seen[session_id] = deque(maxlen=REMEMBERED)
            if len(self._seen) > SESSIONS_REMEMBERED:
                self._seen.popitem(last=False)
        seen.append((version, state_hash))

    async def compare(self) -> None:
        """Say and count what is gone, and forget it. Raises RedisError."""
        for session_id, seen in list(self._seen.items()):
            newest = seen[-1][0]
            while seen and not await self._is_there(session_id, *seen[-1]):
                seen.pop()
            kept = seen[-1][0] if seen else 0
            if kept < newest:
                self._counters["lost_versions"] += newest - kept
                logger.error("Redis lost versions %d to %d of %s, which were committed", kept + 1, newest, session_id)
            if not seen:
                del self._seen[session_id]

    async def _is_there(self, session_id: str, version: int, state_hash: str) -> bool:
        """Whether the log has this very version, and not another one of the same number."""
        entry = f"0-{version}"
        found: Any = await self._redis.xrange(self._keys.log(session_id), entry, entry)
        return bool(found) and decode(found[0][1][b"e"].rpartition(b"\n")[2]).state_hash == state_hash


def _run_id(replies: list[Any]) -> str:
    (info,) = replies
    if isinstance(info, Exception):
        raise info
    text = info.decode() if isinstance(info, bytes) else str(info)
    return text.partition("run_id:")[2].partition("\r")[0]


def _last_id(reply: Any) -> str:
    """The last id that a stream has given out; one that is not there has given out none."""
    if isinstance(reply, ResponseError):
        return "0-0"
    fields = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    return str(fields[b"last-generated-id"].decode())
