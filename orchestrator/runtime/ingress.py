"""The ingress: routes events of outside producers to their sessions. An event of no session becomes a dead letter.

An entry holds one event as JSON in the field `e`. It is routed by three rules (`route`) and appended to the inbox of
its session's shard; then the cursor moves. The reducer recognises duplicates after a crash, since an event without an
id gets the id of its entry.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError

from events.codec import BadEventError, decode_input
from events.envelope import Input
from events.inputs import SessionOpened, SessionResumed
from orchestrator.runtime.fleet.owned import Owned
from orchestrator.runtime.promises import which_awaited
from orchestrator.runtime.redis.commit import Move
from orchestrator.runtime.redis.connection import Entry, ask, pause_s
from orchestrator.safe_text import one_line

logger = logging.getLogger(__name__)

IsLive = Callable[[str], Awaitable[bool]]
SessionOfHandler = Callable[[str], Awaitable[str]]
OWN_BUSINESS = (SessionOpened, SessionResumed)
"""Events that only nodes may produce."""


class UnroutableError(Exception):
    """An event belongs to no session; the message says which rules failed."""


async def route(event: Input, is_live: IsLive, session_of: SessionOfHandler) -> Input:
    """Return the event addressed to its session, by the first rule that applies:

    1. `session_id` names a live session. 2. `session_id` or `handler_id` names a handler whose session is live.
    3. The event belongs to no session: raises UnroutableError.
    """
    if event.session_id and await is_live(event.session_id):
        return event
    for handler_id in dict.fromkeys((event.session_id, event.handler_id)):
        session_id = await session_of(handler_id) if handler_id else ""
        if session_id and await is_live(session_id):
            return event.but(session_id=session_id, handler_id=handler_id)
    raise UnroutableError(
        f"{type(event).model_fields['type'].default} belongs to no session: "
        f"rule 1: {one_line(event.session_id) or '(no session_id)'} is no live session; "
        f"rule 2: {one_line(event.handler_id or event.session_id) or '(no handler_id)'} is no handler of a live session"
    )


class Ingress(Owned):
    """Forwards the events of one ingress stream to the inboxes of their sessions, under one lease."""

    async def _handle(self, batch: list[Entry]) -> None:
        read = [_read(fields.get(b"e", b"")) for _, fields in batch]
        live = await self._which_live({event.session_id for event, _ in read if event and event.session_id})
        moves = [
            await self._forward(stream_id.decode(), fields.get(b"e", b""), event, reason, live)
            for (stream_id, fields), (event, reason) in zip(batch, read, strict=True)
        ]
        await self._inbox.flush()  # the cursor moves only after the inboxes have the events
        await self._committer.commit(moves)

    async def _forward(
        self, entry_id: str, line: bytes, event: Input | None, reason: str, live: dict[str, bool]
    ) -> Move:
        """Queue an event for the inbox of its session, and return the move of the cursor past the event. With a reason,
        or without a session, the move keeps the event as a dead letter.
        """

        async def is_live(session_id: str) -> bool:
            if session_id not in live:  # the session of a handler
                live.update(await self._which_live({session_id}))
            return live[session_id]

        if event is not None:
            try:
                routed = await route(event, is_live, self._session_of)
                if not routed.producer_seq and not routed.event_id:
                    routed = routed.but(event_id=f"{self.lease.what.name}:{entry_id}")
                self._inbox.forward(routed)
            except UnroutableError as error:
                reason = str(error)
        if reason:
            logger.error("%s: dead letter %s: %s", self.lease.what.name, entry_id, reason)
            self._counters["dead_letters"] += 1
        before, self._cursor = self._cursor, entry_id
        return self._pass(before, entry_id, reason, line[:4096], "")

    async def _which_live(self, session_ids: set[str]) -> dict[str, bool]:
        """Session id → whether the session is live, or promised (a client has its id, but it is not open yet).

        Takes one round trip if all are live; a round trip per event would slow down the whole stream. Retries until
        Redis answers; raises RedisError or OSError only if the ingress is lost meanwhile.
        """
        asked = sorted(session_ids)
        calls = [("SISMEMBER", self._keys.sessions(self._keys.shard_of(one)), one) for one in asked]
        failures = 0
        while True:
            try:
                live = {one: bool(found) for one, found in zip(asked, await ask(self._redis, calls), strict=True)}
                others = [one for one, found in live.items() if not found]
                return live | (await which_awaited(self._redis, self._keys, others) if others else {})
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
    """Decode an event of an outside producer: (event, ""), or (None, reason) if it is invalid or not allowed."""
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
