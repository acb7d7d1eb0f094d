"""Finds the writes that Redis lost in a restart or failover, by comparing Redis with the writes this node remembers.

With `appendfsync always`, Redis loses no acknowledged write. With `everysec`, or after a failover, it may lose the
writes of about two seconds. Only this process knows which of its writes Redis has acknowledged. So this process logs
exactly which writes are lost, and appends its own lost inbox entries again.
"""

import logging
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import MovedError, RedisError, ResponseError

from events.codec import BadEventError, decode, decode_input
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.redis.commit import position
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.wire import Exchange

logger = logging.getLogger(__name__)

REMEMBERED = 128
"""How many entries per inbox and steps per session are remembered: more than two seconds of one conversation."""
SESSIONS_REMEMBERED = 1_000
"""How many sessions are remembered: the sessions with the latest steps. They take some 20 MB at most."""
LOSS_S = 10.0
"""Redis may lose what it acknowledged in the last seconds before it fails: about two, or more after a failover."""
TOO_LATE_S = 60.0
"""Nothing is appended again on mere suspicion if Redis acknowledged the last entry more than this many seconds ago: the
reducer remembers only the latest event ids of a session, and might take an older entry for a new one.
"""
OVER_S = 60.0
"""A session that ended is forgotten after this many seconds on the same server: longer than Redis takes to store it."""
SILENT_S = 3600.0
"""So is a session without a step of this node for this many seconds: it has probably ended at another node."""


class SecondLifeError(RedisError):
    """A new connection leads to a Redis that has lost acknowledged inbox entries, or may have lost them. No command was
    sent on that connection: the inbox first appends these entries again, before any other entry.
    """


class _Entry(NamedTuple):
    """An inbox entry that Redis has acknowledged. `at_s`: when, by a monotonic clock. `server`: identity of the server
    (`_identity`) that has acknowledged it; empty: unknown.
    """

    entry_id: bytes
    line: bytes
    at_s: float
    server: str


class Accepted:
    """Remembers, for the inbox of each shard, the last entries of this process that Redis has acknowledged. Entries
    that Redis loses are appended again.

    Redis loses the end of what it has acknowledged. So if a stream has the newest entry of this process, it has all of
    them. If the newest entry is missing, it is lost, or it was handled and trimmed. The ids do not tell: another
    process may have appended entries with higher ids after the loss. So all entries of the last LOSS_S seconds are
    appended again. The reducer recognises those that were not lost by their sequence number or event id.
    """

    def __init__(self, keys: Keys, now_s: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._now_s = now_s
        self._last: defaultdict[int, deque[_Entry]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._servers: dict[int, str] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        """Ids of the sessions that ended at this node, the latest last."""
        self.lost: dict[int, list[bytes]] = {}
        """Shard → lines to append again, before any newer line."""

    def server(self, shard: int) -> str:
        """Return the identity of the server that has the shard; empty: no connection has found it yet."""
        return self._servers.get(shard, "")

    def note(self, shard: int, ids: list[bytes], lines: list[bytes], sent_to: str = "") -> None:
        """Record entries that Redis has acknowledged: `ids[n]` is the entry id of `lines[n]`. `sent_to`: the result of
        `server` before they were sent. If another server has the shard by now, it is unknown which of the two has
        acknowledged them: in a cluster, an old master may answer late.

        Also clears the shard's list `lost` (lines that Redis had lost) if `lines` begins with it, because Redis has
        these lines again. An append that waits while a loss is found fails, and is repeated with them.
        """
        here, now_s = self.server(shard), self._now_s()
        server = here if sent_to in ("", here) else ""
        self._last[shard].extend(_Entry(*one, now_s, server) for one in zip(ids, lines, strict=True))
        lost = self.lost.get(shard)
        if lost and lines[: len(lost)] == lost:
            del self.lost[shard]

    def note_end(self, session_id: str) -> None:
        """Record that a session has ended: its entries have no effect any more, also if Redis has lost it or it was
        purged.
        """
        self._ended[session_id] = None
        if len(self._ended) > SESSIONS_REMEMBERED:
            self._ended.popitem(last=False)

    async def compare(self, exchange: Exchange) -> None:
        """Check, on a new connection, that Redis still has the remembered entries. If it has lost entries, or may have
        lost them, add them to `lost`, to be appended again, and raise SecondLifeError. `exchange` sends commands on
        that connection. Only shards on the connected server count; in a cluster, other masters have the others.

        On the server that has acknowledged an entry, with the data of that time, the entry cannot be lost.
        """
        server = _identity(await exchange([("INFO", "server"), ("INFO", "replication")]))
        shards = range(self._keys.shards)
        is_here = await exchange([("EXISTS", self._keys.inbox(shard)) for shard in shards])
        located = {shard: server for shard, reply in zip(shards, is_here, strict=True) if isinstance(reply, int)}
        self._servers |= located
        since_s = self._losable_since_s()
        last_ids = await self._missing(exchange, server)
        recent = {shard: self._recent(shard, since_s) for shard in last_ids}
        useless = await self._of_ended_sessions(exchange, [one for entries in recent.values() for one in entries])
        found = [self._lose(shard, last_id, set(recent[shard]) - useless) for shard, last_id in last_ids.items()]
        if any(found):
            raise SecondLifeError("Redis has lost, or may have lost, what it had accepted")

    def _recent(self, shard: int, since_s: dict[str, float]) -> list[_Entry]:
        entries = self._last[shard]
        return [one for one in entries if one.at_s >= since_s.get(entries[-1].server, -inf)]

    def _losable_since_s(self) -> dict[str, float]:
        """Return server → the time from which on acknowledged entries may be lost: LOSS_S before the last sign of life
        of that server in an inbox. Infinite if the server gave that sign more than TOO_LATE_S ago.
        """
        heard_s: dict[str, float] = {}
        for entry in (entries[-1] for entries in self._last.values() if entries):
            heard_s[entry.server] = max(entry.at_s, heard_s.get(entry.server, 0.0))
        now_s = self._now_s()
        return {server: at_s - LOSS_S if now_s - at_s <= TOO_LATE_S else inf for server, at_s in heard_s.items()}

    async def _missing(self, exchange: Exchange, server: str) -> dict[int, str]:
        """Return shard → last id of its stream, for streams on this server that lack the newest entry of this process.
        Raises an error that Redis replies.
        """
        newest = {shard: one[-1] for shard, one in self._last.items() if one and one[-1].server != server}
        asked: list[tuple[Any, ...]] = []
        for shard, entry in newest.items():
            stream = self._keys.inbox(shard)
            asked += [("XINFO", "STREAM", stream), ("XRANGE", stream, entry.entry_id, entry.entry_id)]
        replies, missing = await exchange(asked) if asked else [], {}
        for (shard, entry), about, found in zip(newest.items(), replies[::2], replies[1::2], strict=True):
            if isinstance(about, MovedError):
                continue  # the stream is on another master of the cluster
            last_id = _last_id(about)
            if isinstance(found, Exception):
                raise found
            if not (found and entry.line in found[0][1]):
                missing[shard] = last_id
            elif self._last[shard][-1] is entry:
                self._last[shard][-1] = entry._replace(server=server)
        return missing

    async def _of_ended_sessions(self, exchange: Exchange, entries: Sequence[_Entry]) -> set[_Entry]:
        """Return the entries whose session has ended. They have no effect any more; some would be dead letters."""
        session_of = {entry: decode_input(entry.line).session_id for entry in entries}
        sessions = sorted(set(session_of.values()))
        live = [("SISMEMBER", self._keys.sessions(self._keys.shard_of(one)), one) for one in sessions]
        known = [("EXISTS", self._keys.state(one)) for one in sessions]
        replies = await exchange([*live, *known]) if sessions else []
        about = zip(sessions, replies[: len(sessions)], replies[len(sessions) :], strict=True)
        ended = {one for one, is_live, is_known in about if not is_live and (is_known or one in self._ended)}
        return {entry for entry, session_id in session_of.items() if session_id in ended}

    def _lose(self, shard: int, last_id: str, suspected: set[_Entry]) -> bool:
        """Add the lines of a shard to `lost` that are lost, or suspected to be, and forget all entries. `last_id`: last
        id of the stream; entries with a higher id are lost for certain. Returns whether there are such lines.
        """
        entries, stream = self._last[shard], self._keys.inbox(shard)
        lost = {entry for entry in entries if position(entry.entry_id.decode()) > position(last_id)}
        again = [entry.line for entry in entries if entry in lost or entry in suspected]
        if lost:
            logger.error("Redis lost %d accepted entries of %s, after %s: appended again", len(lost), stream, last_id)
        elif again:
            logger.info("Redis may have lost %d accepted entries of %s: appended again", len(again), stream)
        if again:
            self.lost[shard] = self.lost.get(shard, []) + again
        entries.clear()
        return bool(again)


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


def _identity(about: Sequence[Any]) -> str:
    """Return the identity of a server and its data, from the replies to INFO server and INFO replication. The run id is
    new at each start, the replication id also when a replica becomes the master, or follows another master: then its
    data may have changed, too. Raises an error that Redis replies.
    """
    fields: dict[str, str] = {}
    for reply in about:
        if isinstance(reply, Exception):
            raise reply
        fields.update(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
    return f"{fields.get('run_id', '')} {fields.get('master_replid', '')}"


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
