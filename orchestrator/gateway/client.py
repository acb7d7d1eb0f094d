"""A connected browser or terminal: what it is told over its WebSocket, in order, and whether that has left."""

import asyncio
import logging
from collections.abc import Callable
from uuid import uuid4

from aiohttp import web

from events import derived, inputs
from events.envelope import Event
from orchestrator.gateway import messages
from orchestrator.services.ports import ServiceError
from orchestrator.session.state import State

logger = logging.getLogger(__name__)

QUEUE_MAX = 1_000
"""A client that is this many messages behind does not read any more; it is disconnected."""
DROP_S = 3.0
"""How long a client has to read what was told before it is disconnected."""

_TYPED = ":text:"


def event_id_of(session_id: str, message_id: str) -> str:
    """The id of the event that typed words become; words that are sent again become the same event."""
    return f"{session_id}{_TYPED}{message_id}"


class WebSocketClient:
    """Sends through one queue, so that what was said first arrives first and nobody waits for a slow reader."""

    def __init__(self, socket: web.WebSocketResponse, abort: Callable[[], None]) -> None:
        self.client_id = f"client-{uuid4().hex[:12]}"
        self._socket = socket
        self._abort = abort
        """Ends the connection without a word: the only thing to do with a client that does not read."""
        self._queue: asyncio.Queue[messages.ServerMessage] = asyncio.Queue(QUEUE_MAX)
        self._told = self._sent = 0
        self._moved = asyncio.Event()
        """Set when something was sent, or nothing more will be."""
        self._sender = asyncio.create_task(self._send_all(), name=f"{self.client_id}:send")
        self._sender.add_done_callback(lambda _: self._moved.set())

    def tell(self, message: messages.ServerMessage) -> None:
        """Queue a message; never waits."""
        if self._sender.done():
            return
        try:
            self._queue.put_nowait(message)
            self._told += 1
        except asyncio.QueueFull:
            logger.warning("%s does not read any more; disconnecting it", self.client_id)
            self._sender.cancel()
            self._abort()

    def tell_raw(self, message: dict[str, str | int]) -> None:
        """Queue a message of the media layer: playback_start, playback_stop or playback_mark."""
        self.tell(messages.server_message(message))

    def committed(self, event: Event, line: str | None) -> None:
        """Show what was committed."""
        match event:
            case derived.StateChanged(to_phase=phase) if phase != "NEW":
                self.tell(messages.PhaseChanged(phase=phase, reason=event.reason, turn=event.turn))
            case inputs.SttPartial():
                self.tell(messages.Transcript(text=event.text, is_final=False))
            case inputs.SttFinal(event_id=event_id):
                self._acknowledge(event_id)
            case derived.TurnStarted():
                self.tell(messages.Transcript(text=event.text, is_final=True))
            case derived.CommandIssued(name="Speak", payload=payload):
                self.tell(messages.Reply(playback_id=event.target, text=str(payload["text"]), turn=event.turn))
        if line is not None:
            self.tell(messages.LogLine(line=line))

    def _acknowledge(self, event_id: str) -> None:
        if message_id := event_id.partition(_TYPED)[2]:
            self.tell(messages.Ack(message_id=message_id))

    def tell_phase(self, state: State) -> None:
        """Where the conversation is; for a client that comes back. What is being said, or was typed, may have been
        committed while nobody was connected.
        """
        for event_id in state.recent_ids:
            self._acknowledge(event_id)
        if state.phase != "NEW":
            self.tell(messages.PhaseChanged(phase=state.phase, turn=state.turn))
        if (saying := state.playback) is not None:
            self.tell(messages.Reply(playback_id=saying.playback_id, text=saying.text, turn=state.turn))

    async def show_reply(self, playback_id: str, text: str) -> None:  # noqa: ARG002 - told when it was committed
        """Return when everything that was told, the reply among it, has left. Raises ServiceError when it cannot."""
        if not await self._has_left():
            raise ServiceError("the client is gone before it was shown the answer")

    def clear_text(self) -> None:
        self.tell(messages.ClearText())

    def warn(self, code: str, message: str) -> None:
        self.tell(messages.ErrorReport(code=code, message=message))

    def stop(self) -> None:
        """The connection is gone: nothing more can be sent."""
        self._sender.cancel()

    async def close(self, reason: str) -> None:
        """Say that it is over and close; what was told before still arrives."""
        self.tell(messages.Ended(reason=reason))
        await self.drop(messages.CloseCode.NORMAL, "")

    async def send_away(self, reason: str, address: str = "") -> None:
        """The conversation goes on in another process, at that address if one is known: the client is to come back."""
        if address:
            self.tell(messages.Moved(address=address))
        await self.drop(messages.CloseCode.TRY_AGAIN_LATER, reason)

    async def drop(self, code: messages.CloseCode, why: str) -> None:
        """Close the connection; the session may go on."""
        try:
            async with asyncio.timeout(DROP_S):
                await self._has_left()
                self._sender.cancel()
                await self._socket.close(code=code, message=why.encode()[:120])
        except TimeoutError:
            self._sender.cancel()
            self._abort()

    async def _send_all(self) -> None:
        try:
            while True:
                await self._socket.send_str(messages.encode(await self._queue.get()))
                self._sent += 1
                self._moved.set()
        except (ConnectionError, RuntimeError) as error:
            logger.info("%s is gone: %s", self.client_id, error)

    async def _has_left(self) -> bool:
        """Wait for what was told until now, and not for what is told meanwhile; False: the client is gone before."""
        goal = self._told
        while self._sent < goal and not self._sender.done():
            self._moved.clear()
            await self._moved.wait()
        return self._sent >= goal
