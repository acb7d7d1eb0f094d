"""The ingress: routes events of outside producers to their sessions; what belongs to none is a dead letter.

An entry holds one event as JSON in the field `e`. It is routed by the three rules and appended to the inbox of its
session's shard; then the cursor moves. A repetition after a crash is recognised by the reducer, since an event without
an id gets that of its entry.
"""

import asyncio
import logging

from redis.exceptions import RedisError

from events.codec import BadEventError, decode_input
from events.envelope import Input
from events.inputs import SessionOpened, SessionResumed
from orchestrator.runtime.commit import Move
from orchestrator.runtime.connection import Entry, ask, pause_s
from orchestrator.runtime.owned import Owned
from orchestrator.runtime.routing import UnroutableError, route

logger = logging.getLogger(__name__)

OWN_BUSINESS = (SessionOpened, SessionResumed)
"""Said by nodes alone."""


class Ingress(Owned):
    """Forwards one ingress stream, under one lease."""

    async def _handle(self, batch: list[Entry]) -> None:
        read = [_read(fields.get(b"e", b"")) for _, fields in batch]
        live = await self._which_live({event.session_id for event, _ in read if event and event.session_id})
        moves = [
            await self._forward(stream_id.decode(), fields.get(b"e", b""), event, reason, live)
            for (stream_id, fields), (event, reason) in zip(batch, read, strict=True)
        ]
        await self._inbox.flush()  # the cursor moves when the inboxes have it
        await self._committer.commit(moves)

    async def _forward(
        self, entry_id: str, line: bytes, event: Input | None, reason: str, live: dict[str, bool]
    ) -> Move:
        """Hand an event to the inbox of its session; what belongs to none keeps its reason."""

        async def is_live(session_id: str) -> bool:
            if session_id not in live:  # the session of a handler
                live.update(await self._which_live({session_id}))
            return live[session_id]

        if event is not None:
            try:
                routed = await route(event, is_live, self._session_of)
                if not routed.producer_seq and not routed.event_id:
                    routed = routed.model_copy(update={"event_id": f"{self.lease.what.name}:{entry_id}"})
                self._inbox.forward(routed)
            except UnroutableError as error:
                reason = str(error)
        if reason:
            logger.error("%s: dead letter %s: %s", self.lease.what.name, entry_id, reason)
            self._counters["dead_letters"] += 1
        before, self._cursor = self._cursor, entry_id
        return self._pass(before, entry_id, reason, line[:4096], "")

    async def _which_live(self, session_ids: set[str]) -> dict[str, bool]:
        """Which of them are live sessions, in one round trip: a question per event would set the pace of all of them.

        It asks until Redis says it of each; raises RedisError or OSError only when the ingress is another's by then.
        """
        asked = sorted(session_ids)
        calls = [("SISMEMBER", self._keys.sessions(self._keys.shard_of(one)), one) for one in asked]
        failures = 0
        while True:
            try:
                return {one: bool(found) for one, found in zip(asked, await ask(self._redis, calls), strict=True)}
            except (RedisError, OSError) as error:
                if self.lost.is_set():
                    raise
                if not failures:
                    logger.warning("%s: nothing is routed until Redis says who lives: %s", self.lease.what.name, error)
            await asyncio.sleep(pause_s(failures))
            failures += 1

    async def _session_of(self, handler_id: str) -> str:
        session_id = await self._redis.get(self._keys.handler(handler_id))
        return session_id.decode() if isinstance(session_id, bytes) else ""


def _read(line: bytes) -> tuple[Input | None, str]:
    """An event that may be sent from outside, or the reason why this is none."""
    if not line:
        return None, "the entry has no field e"
    try:
        event = decode_input(line)
    except BadEventError as error:
        return None, str(error)
    if isinstance(event, OWN_BUSINESS):
        return None, f"{event.type} is said by nodes alone"
    if event.producer_seq and not event.producer:
        return None, "producer_seq counts the events of a producer, but the event names no producer"
    return event, ""
