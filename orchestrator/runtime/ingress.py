"""The ingress: routes events of outside producers to their sessions. An event of no session becomes a dead letter.

An entry of an ingress stream holds one event as JSON in the field `e`. The event is routed by three rules (`route`) and
appended to the inbox of its session's shard; then the stream's cursor moves past the entry. After a crash, an event may
be appended twice. The reducer recognises such a duplicate, since an event without an id gets its id from the entry.
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
    """Find the session of an event, and return the event with that session's id. The first rule that applies decides:

    1. `session_id` names a live session: the event is returned unchanged.
    2. `session_id` or `handler_id` names a handler whose session is live: a copy with both ids is returned. A producer
       that knows only the handler may put the handler's id into either field.
    3. The event belongs to no session: raises UnroutableError.

    `is_live` takes a session id; a promised session counts as live. `session_of` returns the session of a handler id;
    empty: there is none.
    """
    if event.session_id and await is_live(event.session_id):
        return event
    for handler_id in dict.fromkeys((event.session_id, event.handler_id)):
        session_id = await session_of(handler_id) if handler_id else ""
        if session_id and await is_live(session_id):
            return event.replace(session_id=session_id, handler_id=handler_id)
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
        shards: set[int] = set()
        moves = [
            await self._forward(stream_id.decode(), fields.get(b"e", b""), event, reason, live, shards)
            for (stream_id, fields), (event, reason) in zip(batch, read, strict=True)
        ]
        # The cursor moves only after the inboxes have the events. Only the shards of this batch are awaited: a dead
        # master with other shards does not delay it.
        await self._inbox.flush(shards)
        await self._committer.commit(moves)

    async def _forward(
        self, entry_id: str, line: bytes, event: Input | None, reason: str, live: dict[str, bool], shards: set[int]
    ) -> Move:
        """Queue an event for the inbox of its session, and return the move of the ingress's cursor past the entry of
        the event. If the event is invalid (`reason` says why) or belongs to no session, the move stores it as a dead
        letter.

        `live`: session id → whether the session is live; new findings are added. `shards`: shards to which events were
        sent; the shard of this event is added.
        """

        async def is_live(session_id: str) -> bool:
            if session_id not in live:  # the event names only a handler, and this is the handler's session
                live.update(await self._which_live({session_id}))
            return live[session_id]

        if event is not None:
            try:
                routed = await route(event, is_live, self._session_of)
                if not routed.producer_seq and not routed.event_id:
                    routed = routed.replace(event_id=f"{self.lease.what.name}:{entry_id}")
                shards.add(self._inbox.forward(routed))
            except UnroutableError as error:
                reason = str(error)
        if reason:
            logger.error("%s: dead letter %s: %s", self.lease.what.name, entry_id, reason)
            self._counters["dead_letters"] += 1
        before, self._cursor = self._cursor, entry_id
        return self._pass(before, entry_id, reason, line[:4096], "")

    async def _which_live(self, session_ids: set[str]) -> dict[str, bool]:
        """Return session id → True if the session is live or promised (a client has its id, but it has no log yet),
        False otherwise. If all are live, takes only one round trip for all events.

        Retries until Redis answers. Raises RedisError or OSError only if the lease of the ingress is lost meanwhile.
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
