"""The WebSocket connection of one caller: reads messages as they arrive, and handles them in fair turns with others."""

import asyncio
import contextlib

from aiohttp import WSMsgType, web

from events.inputs import SessionCloseRequested
from orchestrator.gateway import messages
from orchestrator.gateway.call import Call
from orchestrator.gateway.client import WebSocketClient
from orchestrator.gateway.fair_share import FairShare, Share
from orchestrator.gateway.lines import LinePool
from orchestrator.gateway.messages import MAX_MESSAGE_BYTES, CloseCode
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node

MOST_WAITING = 60
"""Queue limit in messages per connection. Beyond it the client is disconnected."""
MOST_WAITING_CHARS = 2 * MAX_MESSAGE_BYTES
"""Queue limit in characters: two of the longest offers, or 60 of the longest typed messages."""
BAD_MESSAGES = 10
"""Malformed messages accepted per connection; the next one closes it."""
FAREWELL_S = 2.0
"""How long messages that arrived before the connection closed are still handled."""
MOST_AHEAD_S = 60.0
"""How far spoken turns may be ahead of the rate that the grant allows: nobody can be asked to wait in mid-sentence."""
MOST_TYPED_CHARS = 200_000
"""Quota per conversation, a hundred times the longest message: each character is stored about ten times."""
MOST_EVENTS = 50_000
"""Quota per conversation: about 25 MB, or a day of talking."""
TOO_MANY = "too many messages: wait for the answers"
QUOTA = "quota"
NOT_ALLOWED = "not_allowed"
TOO_MANY_TURNS = "turn_limit"


class ControlChannel:
    """A caller's connection to a session: a bounded queue of messages and the checks before each is handled."""

    def __init__(
        self,
        node: Node,
        lines: LinePool,
        fair_share: FairShare,
        share: Share,
        live: LiveSession,
        client: WebSocketClient,
    ) -> None:
        self._node = node
        self._lines = lines
        self._fair_share = fair_share
        self._share = share
        self._live = live
        self._client = client
        self._waiting: asyncio.Queue[str] = asyncio.Queue(MOST_WAITING)
        self._waiting_chars = 0
        self._bad_left = BAD_MESSAGES
        self._has_hung_up = False

    async def listen(self, socket: web.WebSocketResponse, call: Call) -> None:
        """Read messages until the connection closes, then up to FAREWELL_S more until the queue is handled."""
        working = asyncio.create_task(self._work_off(call), name=f"{self._live.session_id}:messages")
        try:
            async for message in socket:
                if working.done():
                    break
                if message.type is not WSMsgType.TEXT:
                    await self._client.drop(CloseCode.POLICY_VIOLATION, "only text messages are understood")
                elif self._waiting.full() or self._waiting_chars + len(message.data) > MOST_WAITING_CHARS:
                    self._node.counters["clients_dropped"] += 1
                    await self._client.drop(CloseCode.POLICY_VIOLATION, TOO_MANY)
                else:
                    self._waiting_chars += len(message.data)
                    self._waiting.put_nowait(message.data)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_S):
                    if not working.done():
                        await self._waiting.join()
        finally:
            working.cancel()
            (outcome,) = await asyncio.gather(working, return_exceptions=True)
        if isinstance(outcome, Exception):
            raise outcome

    async def _work_off(self, call: Call) -> None:
        while True:
            raw = await self._waiting.get()
            try:
                if not await call.hear(raw):
                    self._bad_left -= 1
                    if self._bad_left < 0:
                        await self._client.drop(CloseCode.POLICY_VIOLATION, "too many bad messages")
            finally:
                self._waiting_chars -= len(raw)
                self._waiting.task_done()

    async def admits(self, message: messages.ClientMessage) -> bool:
        """Wait for this message's turn. Returns False when the message must not be carried out."""
        if self._has_hung_up:  # each further goodbye would be an event
            return False
        if isinstance(message, messages.PlaybackDoneMessage):  # costs nothing, and matters most on time
            return True
        if isinstance(message, messages.GoodbyeMessage):
            return await self._hangs_up()
        if isinstance(message, messages.BargeInMessage) and self._live.open is not None:
            return False  # nothing is being said yet
        await self._fair_share.turn(self._share, lambda: not self._waiting.empty())
        if self._live.open is not None and self._live.client is not self._client:
            return False  # the session was ended meanwhile as silent
        if not self._is_within_quota(message):
            return False
        if isinstance(message, messages.TextMessage):
            if not self._may_type():
                return False
            self._lines.spoke(self._live)
            self._node.begin(self._live)
        return True

    def _may_type(self) -> bool:
        """Whether the grant allows one more typed turn."""
        if "text" not in self._live.grant.may:
            self._client.warn(NOT_ALLOWED, "your token allows to speak, not to type")
            return False
        if self._share.turns is not None and not self._share.turns.take():
            allowed = self._live.grant.turns_per_minute
            self._client.warn(TOO_MANY_TURNS, f"your token allows {allowed} turns a minute: wait, and say it again")
            return False
        return True

    def spoke_aloud(self) -> None:
        """Count a spoken turn. A caller who is a minute ahead of what the grant allows is asked to leave."""
        if self._share.turns is None or self._share.turns.reserve(MOST_AHEAD_S) is not None:
            return
        self._client.warn(TOO_MANY_TURNS, "this conversation has had more turns than your token allows, and ends")
        self._node.report(SessionCloseRequested(session_id=self._live.session_id, reason=TOO_MANY_TURNS))

    async def _hangs_up(self) -> bool:
        """Whether a goodbye becomes an event. A session without input is withdrawn instead and leaves no events."""
        self._has_hung_up = True
        if self._live.open is None:
            return True
        self._lines.spoke(self._live)
        await self._node.withdraw(self._live)
        await self._client.close("goodbye")
        return False

    def _is_within_quota(self, message: messages.ClientMessage) -> bool:
        """Whether the conversation may go on. Ends it beyond the quota: the storage of one caller is bounded."""
        if isinstance(message, messages.TextMessage):
            self._share.typed_chars += len(message.text)
        if self._share.typed_chars <= MOST_TYPED_CHARS and self._live.state.version <= MOST_EVENTS:
            return True
        self._client.warn(QUOTA, "this conversation has become too long, and ends; start a new one")
        self._node.report(SessionCloseRequested(session_id=self._live.session_id, reason=QUOTA))
        return False
