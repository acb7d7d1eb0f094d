"""Finds the writes that Redis lost in a restart or failover, by comparing Redis with the writes this node remembers.

With `appendfsync always`, Redis loses no acknowledged write. With `everysec`, or after a failover, it may lose the
writes of about two seconds. Only this process knows which of its writes Redis has acknowledged. So this process logs
exactly which writes are lost, and appends its own lost inbox entries again.
"""

import logging
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import MovedError, RedisError, ResponseError

from events.codec import BadEventError, decode
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.redis.commit import position
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.wire import Exchange

logger = logging.getLogger(__name__)

REMEMBERED = 128
"""How many entries per inbox and steps per session are remembered: more than two seconds of one conversation."""
SESSIONS_REMEMBERED = 1_000
"""How many sessions are remembered: the sessions with the latest steps. They take some 20 MB at most."""
OVER_S = 60.0
"""A session that ended is forgotten after this many seconds on the same server: longer than Redis takes to store it."""
SILENT_S = 3600.0
"""So is a session without a step of this node for this many seconds: it has probably ended at another node."""


class SecondLifeError(RedisError):
    """A new connection leads to a Redis that has lost acknowledged inbox entries. No command was sent on that
    connection: the inbox first appends the lost entries again, before any other entry.
    """


class Accepted:
    """Remembers, for the inbox of each shard, the last entries of this process that Redis has acknowledged. Entries
    that Redis loses are appended again.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._last: defaultdict[int, deque[tuple[bytes, bytes]]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self.lost: dict[int, list[bytes]] = {}
        """Shard → lines to append again, before any newer line."""

    def note(self, shard: int, ids: list[bytes], lines: list[bytes]) -> None:
        """Record entries that Redis has acknowledged: `ids[n]` is the entry id of `lines[n]`.

        Also clears the shard's list `lost` (lines that Redis had lost): the inbox begins each append with the lost
        lines, so Redis has them again. An append that waits while a loss is found fails, and is repeated with them.
        """
        self._last[shard].extend(zip(ids, lines, strict=True))
        self.lost.pop(shard, None)

    async def compare(self, exchange: Exchange) -> None:
        """Check, on a new connection, that Redis still has the remembered entries. If entries are missing, add them to
        `lost`, to be appended again, and raise SecondLifeError. `exchange` sends commands on that connection.
        """
        found = False
        for shard, entries in list(self._last.items()):  # each master has its connection: others append meanwhile
            stream = self._keys.inbox(shard)
            (reply,) = await exchange([("XINFO", "STREAM", stream)])
            if isinstance(reply, MovedError):
                continue  # the stream is on another master of the cluster
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


class _Step(NamedTuple):
    """A step that this node has committed. `before` and `version`: version of the session before and after it."""

    before: int
    version: int
    state_hash: str


@dataclass(slots=True)
class _Seen:
    """The last steps of a session that this node has committed.

    `server`: run id of the Redis server that has them. `noted_s`: when the last of them was noted, by a monotonic
    clock. `is_over`: the session ended in the last of them.
    """

    server: str = ""
    noted_s: float = 0.0
    is_over: bool = False
    steps: deque[_Step] = field(default_factory=lambda: deque(maxlen=REMEMBERED))


class Committed:
    """Remembers the last steps of each session that this node has committed, to report steps that Redis has lost."""

    def __init__(
        self, redis: Redis, keys: Keys, counters: Counters, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._counters = counters
        self._now_s = now_s
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def note(
        self, session_id: str, server: str, version: int, state_hash: str, *, events: int = 1, is_over: bool = False
    ) -> None:
        """Record that a step of the session is committed. `server`: run id of the Redis server. `version` and
        `state_hash`: version of the session, and digest of its state, after the step. `events`: how many events the
        step has; each has a version of its own. `is_over`: the session ended in this step.
        """
        seen = self._seen.get(session_id)
        if seen is None:
            seen = self._seen[session_id] = _Seen()
            if len(self._seen) > SESSIONS_REMEMBERED:
                self._seen.popitem(last=False)
        self._seen.move_to_end(session_id)
        seen.server, seen.noted_s, seen.is_over = server, self._now_s(), is_over
        seen.steps.append(_Step(version - events, version, state_hash))

    async def compare(self, servers: Callable[[str], str]) -> None:
        """Find the versions that Redis has lost, in each session whose Redis server was restarted or replaced since the
        last call. Log the lost versions as an error, and add their number to the counter lost_versions. Restores
        nothing.

        If a server fails, its sessions are compared again in the next call: the server may be loading its data, while
        the other masters of a cluster work.

        `servers`: key of a session's log → run id of its server, which differs after a restart; empty: unknown.
        """
        failed: set[str] = set()
        for session_id, seen in list(self._seen.items()):
            server = servers(self._keys.log(session_id))
            if server == "" or server in failed:
                continue
            if server == seen.server:
                if self._now_s() - seen.noted_s > (OVER_S if seen.is_over else SILENT_S):
                    self._seen.pop(session_id, None)
                continue
            try:
                if seen.server:
                    await self._compare(session_id, seen)
                seen.server = server
            except (RedisError, OSError) as error:
                logger.warning("whether Redis has lost versions is not known yet: %s", error)
                failed.add(server)
            except BadEventError as error:  # of a newer node: another owner has gone on, and has counted the loss
                logger.error("whether versions of %s are lost is not known: %s", session_id, error)  # noqa: TRY400
                seen.server = server

    async def _compare(self, session_id: str, seen: _Seen) -> None:
        """Report the steps that are gone. Only steps of this node count: those of other owners may be there, or the
        other owners count them.
        """
        lost: deque[_Step] = deque()
        for step in reversed(seen.steps.copy()):
            if await self._is_there(session_id, step):
                break
            lost.appendleft(step)
        for first, last in _ranges(lost):
            self._counters["lost_versions"] += last - first + 1
            logger.error("Redis lost versions %d to %d of %s, which were committed", first, last, session_id)
        seen.steps = deque((step for step in seen.steps if step not in lost), REMEMBERED)
        if not seen.steps:
            self._seen.pop(session_id, None)

    async def _is_there(self, session_id: str, step: _Step) -> bool:
        """Whether the session's log has the step's version, with its digest of the state. If the log was archived and
        removed, the digest is ignored: Redis still keeps the last version under the session's state key, and the result
        is True if that is at least the step's version.
        """
        log, entry = self._keys.log(session_id), f"0-{step.version}"
        found: Any = await self._redis.xrange(log, entry, entry)
        if not found and not await self._redis.exists(log):
            return int(await self._redis.hget(self._keys.state(session_id), "version") or 0) >= step.version
        return bool(found) and decode(found[0][1][b"e"].rpartition(b"\n")[2]).state_hash == step.state_hash


def _ranges(steps: Iterable[_Step]) -> list[tuple[int, int]]:
    """Return the versions of steps as ranges (first, last), one for all steps that follow each other without a gap."""
    ranges: list[tuple[int, int]] = []
    for step in steps:
        follows = bool(ranges) and ranges[-1][1] == step.before
        first = ranges.pop()[0] if follows else step.before + 1
        ranges.append((first, step.version))
    return ranges


def _last_id(reply: Any) -> str:
    """Return the last id that a stream has generated, from a reply to XINFO STREAM. If the stream does not exist (the
    reply is the error "no such key"), returns "0-0". If the reply is any other error of Redis, raises that error.
    """
    if isinstance(reply, ResponseError):
        if "no such key" in str(reply):
            return "0-0"
        raise reply
    fields = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    return str(fields[b"last-generated-id"].decode())
