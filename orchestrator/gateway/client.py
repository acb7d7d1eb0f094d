"""Sends messages to one connected browser or terminal over its WebSocket, in order, and tracks which have been sent."""

import asyncio
import logging
from collections.abc import Callable
from uuid import uuid4

from aiohttp import web

from events import derived, inputs
from events.envelope import Event
from orchestrator.gateway import messages
from orchestrator.services.failures import ListenerGone
from orchestrator.session.state import State

logger = logging.getLogger(__name__)

QUEUE_MAX = 1_000
"""Queue limit in messages. Beyond it the client is disconnected: it no longer reads."""
DROP_S = 3.0
"""Timeout for sending queued messages before the client is disconnected."""

_TYPED = ":text:"


def event_id_of(session_id: str, message_id: str) -> str:
    """The event id of a typed message. A repeated message has the same event id, so it counts once."""
    return f"{session_id}{_TYPED}{message_id}"


class WebSocketClient:
    """Sends through one queue: messages arrive in order, and a slow client delays nobody."""

    def __init__(self, socket: web.WebSocketResponse, abort: Callable[[], None]) -> None:
        self.client_id = f"client-{uuid4().hex[:12]}"
        self._socket = socket
        self._abort = abort
        """Ends the connection without a close frame: a client that does not read would not receive it."""
        self._queue: asyncio.Queue[messages.ServerMessage] = asyncio.Queue(QUEUE_MAX)
        self._told = self._sent = 0
        self._is_foretold = False
        self._replied = "", 0
        """The last reply, and how many texts of it were sent."""
        self._moved = asyncio.Event()
        """Set when a message was sent, or when the sender has ended."""
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
        """Send the messages for a committed event. `line` is its line of the golden log, or None."""
        match event:
            case derived.StateChanged(to_phase=phase) if self._is_foretold and phase in ("IDLE", "LISTENING"):
                self._is_foretold = phase != "LISTENING"
            case derived.StateChanged(to_phase=phase) if phase != "NEW":
                self.tell(messages.PhaseMessage(phase=phase, reason=event.reason, turn=event.turn))
            case inputs.SttPartial():
                self.tell(messages.TranscriptMessage(text=event.text, is_final=False))
            case inputs.SttFinal(event_id=event_id):
                self._acknowledge(event_id)
            case derived.TurnStarted():
                self.tell(messages.TranscriptMessage(text=event.text, is_final=True))
            case derived.CommandIssued(name="Speak", retry_of="", payload=payload):
                self._reply(event.target, str(payload["text"]), event.turn)
            case derived.CommandIssued(name="SpeakMore", payload=payload):
                self._reply_more(str(payload["playback_id"]), int(str(payload["index"])), str(payload["text"]))
            case derived.AnswerEnded(outcome="interrupted"):
                self.tell(messages.HeardMessage(playback_id=event.playback_id, text=event.heard_text))
        if line is not None:
            self.tell(messages.LogMessage(line=line))

    def _reply(self, playback_id: str, text: str, turn: int, texts: int = 1) -> None:
        self._replied = playback_id, texts
        self.tell(messages.ReplyMessage(playback_id=playback_id, text=text, turn=turn))

    def _reply_more(self, playback_id: str, index: int, text: str) -> None:
        """Send the next text of an answer; not those that a new owner, or a new call, speaks again."""
        if text and (playback_id, index) == self._replied:
            self._replied = playback_id, index + 1
            self.tell(messages.ReplyMoreMessage(playback_id=playback_id, text=text))

    def _acknowledge(self, event_id: str) -> None:
        if message_id := event_id.partition(_TYPED)[2]:
            self.tell(messages.AckMessage(message_id=message_id))

    def foretell_phase(self) -> None:
        """Send LISTENING now, before the first input begins the log. `committed` then skips the same change."""
        self._is_foretold = True
        self.tell(messages.PhaseMessage(phase="LISTENING", reason="client_connected"))

    def tell_phase(self, state: State) -> None:
        """Send the current phase to a client that reconnected, with the acknowledgements and the running reply that may
        have been committed while no client was connected.
        """
        for event_id in state.recent_ids:
            self._acknowledge(event_id)
        if state.phase != "NEW":
            self.tell(messages.PhaseMessage(phase=state.phase, turn=state.turn))
        if (saying := state.playback) is not None:
            self._reply(saying.playback_id, saying.text, state.turn, len(saying.ends_at))

    async def show_reply(self, playback_id: str, text: str) -> None:  # noqa: ARG002 - told when it was committed
        """Wait until every queued message, including the reply, is sent. Raises ListenerGone if the client is gone."""
        if not await self._has_left():
            raise ListenerGone("the client is gone before it was shown the answer")

    def clear_text(self) -> None:
        self.tell(messages.ClearTextMessage())

    def warn(self, code: str, message: str) -> None:
        self.tell(messages.ErrorMessage(code=code, message=message))

    def stop(self) -> None:
        """Stop sending: the connection is gone."""
        self._sender.cancel()

    async def close(self, reason: str) -> None:
        """Send `ended` and close the connection. Messages queued before are still sent."""
        self.tell(messages.EndedMessage(reason=reason))
        await self.drop(messages.CloseCode.NORMAL, "")

    async def send_away(self, reason: str, address: str = "") -> None:
        """Close with TRY_AGAIN_LATER: another process continues the conversation, at `address` if known."""
        if address:
            self.tell(messages.MovedMessage(address=address))
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
                message = await self._queue.get()
                await self._socket.send_str(messages.encode(message))
                if isinstance(message, messages.SessionMessage):
                    await self._socket.ping()  # its pong: the client has the resume token
                self._sent += 1
                self._moved.set()
        except (ConnectionError, RuntimeError) as error:
            logger.info("%s is gone: %s", self.client_id, error)

    async def _has_left(self) -> bool:
        """Wait until the messages queued so far are sent; later messages do not count. False: the client went first."""
        goal = self._told
        while self._sent < goal and not self._sender.done():
            self._moved.clear()
            await self._moved.wait()
        return self._sent >= goal
