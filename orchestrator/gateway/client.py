"""A connected browser or terminal: what it is told, in order, over its WebSocket."""

import asyncio
import contextlib
import logging
from uuid import uuid4

from aiohttp import web

from events import derived, inputs
from events.envelope import Event
from orchestrator.gateway import messages
from orchestrator.session.state import State

logger = logging.getLogger(__name__)

QUEUE_MAX = 1_000
"""A client that is this many messages behind does not read any more; it is disconnected."""


_Queued = tuple[messages.ServerMessage | None, asyncio.Future[None] | None]
"""A message to send, and a future that is done when everything up to here has left."""


class WebSocketClient:
    """Sends through one queue, so that what was said first arrives first and nobody waits for a slow reader."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.client_id = f"client-{uuid4().hex[:12]}"
        self._socket = socket
        self._queue: asyncio.Queue[_Queued] = asyncio.Queue(QUEUE_MAX)
        self._sender = asyncio.create_task(self._send_all(), name=f"{self.client_id}:send")

    def tell(self, message: messages.ServerMessage) -> None:
        """Queue a message; never waits."""
        self._put(message, None)

    def tell_raw(self, message: dict[str, str | int]) -> None:
        """Queue a message of the media layer: playback_start, playback_stop or playback_mark."""
        match message:
            case {"type": "playback_start", "playback_id": str(playback_id)}:
                self.tell(messages.PlaybackStart(playback_id=playback_id))
            case {"type": "playback_stop", "playback_id": str(playback_id)}:
                self.tell(messages.PlaybackStop(playback_id=playback_id))
            case {"type": "playback_mark", "playback_id": str(playback_id), "rtp": int(rtp)}:
                self.tell(messages.PlaybackMark(playback_id=playback_id, rtp=rtp))
            case _:
                raise ValueError(f"the media layer said something that is no message: {message}")

    def committed(self, event: Event, line: str | None) -> None:
        """Show what was committed."""
        match event:
            case derived.StateChanged(to_phase=phase) if phase != "NEW":
                self.tell(messages.PhaseChanged(phase=phase, reason=event.reason, turn=event.turn))
            case inputs.SttPartial():
                self.tell(messages.Transcript(text=event.text, is_final=False))
            case derived.TurnStarted():
                self.tell(messages.Transcript(text=event.text, is_final=True))
            case derived.CommandIssued(name="Speak", payload=payload):
                self.tell(messages.Reply(playback_id=event.target, text=str(payload["text"]), turn=event.turn))
        if line is not None:
            self.tell(messages.LogLine(line=line))

    def tell_phase(self, state: State) -> None:
        """Where the conversation is; for a client that comes back."""
        if state.phase != "NEW":
            self.tell(messages.PhaseChanged(phase=state.phase, turn=state.turn))

    async def show_reply(self, playback_id: str, text: str) -> None:  # noqa: ARG002 - told when it was committed
        """Return when everything told so far, the reply among it, has left."""
        left = asyncio.get_running_loop().create_future()
        self._put(None, left)
        await left

    def clear_text(self) -> None:
        self.tell(messages.ClearText())

    async def close(self, reason: str) -> None:
        """Say that it is over and close; what was told before still arrives."""
        self.tell(messages.Ended(reason=reason))
        await self.drop(messages.CloseCode.NORMAL, "")

    async def drop(self, code: messages.CloseCode, why: str) -> None:
        """Close the connection; the session may go on."""
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            await asyncio.wait_for(self._queue.join(), 2)
        self._sender.cancel()
        await self._socket.close(code=code, message=why.encode()[:120])

    def _put(self, message: messages.ServerMessage | None, left: "asyncio.Future[None] | None") -> None:
        try:
            self._queue.put_nowait((message, left))
        except asyncio.QueueFull:
            logger.warning("%s does not read any more; disconnecting it", self.client_id)
            self._sender.cancel()

    async def _send_all(self) -> None:
        try:
            while True:
                message, left = await self._queue.get()
                try:
                    if message is not None:
                        await self._socket.send_str(messages.encode(message))
                finally:
                    self._queue.task_done()
                    if left is not None and not left.done():
                        left.set_result(None)
        except (ConnectionError, RuntimeError) as error:
            logger.info("%s is gone: %s", self.client_id, error)
