"""A connection at work: client messages become events, an offer becomes a media handler."""

import asyncio
import logging
from uuid import uuid4

from events.envelope import Input
from events.inputs import BargeIn, ClientDisconnected, HandlerAttached, HandlerDetached, SessionCloseRequested, SttFinal
from orchestrator.gateway import messages
from orchestrator.gateway.client import WebSocketClient, event_id_of
from orchestrator.media.handler import MediaHandler, OfferRefused
from orchestrator.media.settings import MediaSettings
from orchestrator.runtime.effects import Services
from orchestrator.runtime.live_session import Handler, LiveSession
from orchestrator.runtime.node import Node
from orchestrator.services.ports import ServiceError

logger = logging.getLogger(__name__)


class Call:
    """One client's connection to one session."""

    def __init__(
        self, node: Node, services: Services, media: MediaSettings, live: LiveSession, client: WebSocketClient
    ) -> None:
        self._node = node
        self._services = services
        self._media = media
        self._live = live
        self._client = client
        self._left = False

    async def hear(self, raw: str) -> bool:
        """Carry out one message; False when it was a bad one (the client is told why)."""
        try:
            await self._carry_out(messages.parse_client_message(raw))
        except messages.BadMessage as error:
            self._client.tell(messages.ErrorReport(code="bad_message", message=str(error)))
            return False
        return True

    async def _carry_out(self, message: messages.ClientMessage) -> None:
        session_id, live = self._live.session_id, self._live
        match message:
            case messages.TextInput(text=text, message_id=None):
                self._node.report(SttFinal(session_id=session_id, text=text, via="text"))
            case messages.TextInput(text=text, message_id=str(message_id)):
                event_id = event_id_of(session_id, message_id)
                self._node.report(SttFinal(event_id=event_id, session_id=session_id, text=text, via="text"))
            case messages.BargeIn():
                self._node.report(
                    BargeIn(
                        session_id=session_id,
                        playback_id=message.playback_id or "",
                        position_ms=message.position_ms or 0,
                    )
                )
            case messages.PlaybackDone(playback_id=playback_id):
                if live.handler is not None:
                    live.handler.client_confirmed(playback_id)
            case messages.Goodbye():
                self._node.report(SessionCloseRequested(session_id=session_id, reason="goodbye"))
            case messages.WebrtcOffer(sdp=sdp):
                await self._attach(sdp)

    async def _attach(self, offer_sdp: str) -> None:
        """Connect a microphone and a loudspeaker. HANDLER_ATTACHED is on its way before the answer leaves."""
        session_id, live = self._live.session_id, self._live
        handler_id = f"fastrtc_{uuid4().int % 10**10:010d}"
        try:
            handler, answer_sdp = await MediaHandler.accept(
                offer_sdp,
                handler_id=handler_id,
                session_id=session_id,
                stt=self._services.speech_to_text,
                report=self._report,
                tell_client=self._tell_client,
                settings=self._media,
            )
        except (OfferRefused, ServiceError) as error:
            self._client.tell(messages.ErrorReport(code="call_failed", message=str(error)))
            return
        except Exception:  # a port of the user's that breaks costs the call, not the conversation
            logger.exception("the call of %s could not be set up", session_id)
            self._client.tell(messages.ErrorReport(code="call_failed", message="the call could not be set up"))
            return
        if live.client is not self._client:
            await handler.close()  # the session went on without this connection while the call was set up
            return
        if (old := live.handler) is not None:
            await self._detach(old.handler_id)
        live.handler = handler
        await self._node.register_handler(handler_id, session_id)
        self._node.report(HandlerAttached(session_id=session_id, handler_id=handler_id))
        self._client.tell(messages.WebrtcAnswer(sdp=answer_sdp, handler_id=handler_id))

    def _report(self, event: Input) -> None:
        """What the media layer says; a connection that ended is forgotten here too."""
        self._node.report(event)
        live = self._live
        if isinstance(event, HandlerDetached) and live.handler and live.handler.handler_id == event.handler_id:
            handler, live.handler = live.handler, None
            live.watch(asyncio.create_task(self._forget(handler), name=f"{live.session_id}:detach"))

    def _tell_client(self, message: dict[str, str | int]) -> None:
        """To whoever is connected now: the call may outlive the connection that began it."""
        if isinstance(self._live.client, WebSocketClient):
            self._live.client.tell_raw(message)

    async def _detach(self, handler_id: str) -> None:
        live = self._live
        if live.handler is None or live.handler.handler_id != handler_id:
            return
        handler, live.handler = live.handler, None
        if live.state.phase != "ENDED":
            self._node.report(
                HandlerDetached(session_id=live.session_id, handler_id=handler_id, reason="replaced or left")
            )
        await self._forget(handler)

    async def _forget(self, handler: Handler) -> None:
        await handler.close()
        await self._node.forget_handler(handler.handler_id)

    async def leave(self, reason: str) -> None:
        """The connection is gone: so is its handler; the session waits for the client to come back."""
        if self._left:
            return
        self._left = True
        self._client.stop()
        live = self._live
        if live.client is not self._client:
            return  # another connection serves the session by now
        live.client = None  # at once: the client may be back while the handler is still being closed
        live.call_follows = live.handler is not None
        if live.handler is not None:
            await self._detach(live.handler.handler_id)
        if live.state.phase != "ENDED":
            self._node.report(
                ClientDisconnected(session_id=live.session_id, client_id=self._client.client_id, reason=reason)
            )
