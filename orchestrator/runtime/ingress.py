"""The ingress: routes events of outside producers to their sessions; what belongs to none is a dead letter.

An entry holds one event as JSON in the field `e`. It is routed by the three rules and appended to the inbox of its
session's shard; then the cursor moves. A repetition after a crash is recognised by the reducer, since an event without
an id gets that of its entry.
"""

import asyncio
import logging

from redis.asyncio import Redis
from redis.exceptions import RedisError

from events.codec import BadEventError, decode_input
from events.inputs import SessionOpened, SessionResumed
from orchestrator.runtime.commit import Committer, LostOwnershipError, Move
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.inbox import Inbox
from orchestrator.runtime.keys import Keys
from orchestrator.runtime.lease import Lease
from orchestrator.runtime.routing import UnroutableError, route
from orchestrator.runtime.subscribers import Entry
from orchestrator.runtime.wire import Wire

logger = logging.getLogger(__name__)

INGRESSES = 4
"""A producer keeps to one of them, so that its events keep their order."""
OWN_BUSINESS = (SessionOpened, SessionResumed)
"""Said by nodes alone."""


class Ingress:
    """Forwards one ingress stream, under one lease."""

    def __init__(
        self, redis: Redis, wire: Wire, keys: Keys, lease: Lease, server: str, inbox: Inbox, counters: Counters
    ) -> None:
        self.lease = lease
        self.lost = asyncio.Event()
        self._redis = redis
        self._keys = keys
        self._inbox = inbox
        self._counters = counters
        self._committer = Committer(redis, wire, lease.what.owned, lease.token, server)
        self._cursor = lease.cursor

    async def handle(self, batch: list[Entry]) -> None:
        """The FastStream handler; it never raises."""
        if self.lost.is_set():
            return
        try:
            moves = [await self._forward(stream_id.decode(), fields) for stream_id, fields in batch]
            await self._inbox.flush()  # the cursor moves when the inboxes have it
            await self._committer.commit(moves)
        except (LostOwnershipError, RedisError) as error:
            logger.warning("%s is lost: %s", self.lease.what.name, error)
            self.lost.set()
        except Exception:
            logger.exception("%s cannot go on", self.lease.what.name)
            self.lost.set()

    async def _forward(self, entry_id: str, fields: dict[bytes, bytes]) -> Move:
        reason, line = "", fields.get(b"e", b"")
        try:
            event = decode_input(line) if line else None
            if event is None:
                reason = "the entry has no field e"
            elif isinstance(event, OWN_BUSINESS):
                reason = f"{event.type} is said by nodes alone"
            elif event.producer_seq and not event.producer:
                reason = "producer_seq counts the events of a producer, but the event names no producer"
            else:
                routed = await route(event, self._is_live, self._session_of)
                if not routed.producer_seq and not routed.event_id:
                    routed = routed.model_copy(update={"event_id": f"{self.lease.what.name}:{entry_id}"})
                self._inbox.forward(routed)
        except (BadEventError, UnroutableError) as error:
            reason = str(error)
        if reason:
            logger.error("%s: dead letter %s: %s", self.lease.what.name, entry_id, reason)
            self._counters["dead_letters"] += 1
        what, before, self._cursor = self.lease.what, self._cursor, entry_id
        return Move("pass", [what.owned, what.dead_letters, what.stream], before, entry_id, (reason, line[:4096], ""))

    async def _is_live(self, session_id: str) -> bool:
        sessions = self._keys.sessions(self._keys.shard_of(session_id))
        return bool(await self._redis.sismember(sessions, session_id))

    async def _session_of(self, handler_id: str) -> str:
        session_id = await self._redis.get(self._keys.handler(handler_id))
        return session_id.decode() if isinstance(session_id, bytes) else ""

    async def give_up(self) -> None:
        """Nothing runs beside the subscription."""
        self.lost.set()

    async def send_away(self, reason: str, address: str) -> None:
        """Nobody is connected to an ingress."""
