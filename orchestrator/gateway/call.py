"""Carries out the messages of one connection: messages become events, an offer becomes a media handler."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from uuid import uuid4

from redis.exceptions import RedisError

from events.envelope import Input
from events.inputs import BargeIn, ClientDisconnected, HandlerAttached, HandlerDetached, SessionCloseRequested, SttFinal
from orchestrator.gateway import messages
from orchestrator.gateway.client import WebSocketClient, event_id_of
from orchestrator.media.handler import MediaHandler
from orchestrator.media.offer import OfferRefused
from orchestrator.media.settings import MediaSettings
from orchestrator.runtime.effects.effects import Services
from orchestrator.runtime.live_session import Handler, LiveSession
from orchestrator.runtime.node import DELAYED, Node
from orchestrator.safe_text import named_error
from orchestrator.services.failures import ServiceError, is_cancelled
from orchestrator.token_bucket import TokenBucket

logger = logging.getLogger(__name__)

OFFERS_PER_S = 1
MOST_OFFERS = 5
"""Burst limit. A client that lost its call sends one offer, and a few more if that fails."""
LONGEST_MS = 24 * 3600 * 1000
"""Largest position of an event, in ms (events.envelope.Milliseconds)."""
REGISTER_S = 5.0
"""Timeout for registering a new call in Redis."""


class Call:
    """One client's connection to one session."""

    def __init__(
        self,
        node: Node,
        services: Services,
        media: MediaSettings,
        live: LiveSession,
        client: WebSocketClient,
        admits: Callable[[messages.ClientMessage], Awaitable[bool]],
        spoke: Callable[[], None],
        *,
        tells_details: bool = False,
    ) -> None:
        """`admits` waits for a message's turn and returns False to skip the message. `spoke` is called for each spoken
        turn. `tells_details` adds the cause of
        a failure to the client's error message.
        """
        self._admits = admits
        self._spoke = spoke
        self._node = node
        self._services = services
        self._media = media
        self._live = live
        self._client = client
        self._tells_details = tells_details
        self._left = False
        self._offers = TokenBucket(OFFERS_PER_S, MOST_OFFERS)
        self._attaching: asyncio.Task[None] | None = None

    async def hear(self, raw: str) -> bool:
        """Carry out one message. Returns False for a bad message, after an error message to the client."""
        try:
            message = messages.parse_client_message(raw)
        except messages.BadMessage as error:
            self._client.tell(messages.ErrorMessage(code="bad_message", message=str(error)))
            return False
        if await self._admits(message):
            await self._carry_out(message)
        return True

    async def _carry_out(self, message: messages.ClientMessage) -> None:
        session_id, live = self._live.session_id, self._live
        match message:
            case messages.TextMessage(text=text, message_id=None):
                self._node.report(SttFinal(session_id=session_id, text=text, via="text"))
            case messages.TextMessage(text=text, message_id=str(message_id)):
                event_id = event_id_of(session_id, message_id)
                self._node.report(SttFinal(event_id=event_id, session_id=session_id, text=text, via="text"))
            case messages.BargeInMessage():
                self._node.report(
                    BargeIn(
                        session_id=session_id,
                        playback_id=message.playback_id or "",
                        position_ms=self._heard_ms(message),
                    )
                )
            case messages.PlaybackDoneMessage(playback_id=playback_id):
                if live.handler is not None:
                    live.handler.client_confirmed(playback_id)
            case messages.GoodbyeMessage():
                self._node.report(SessionCloseRequested(session_id=session_id, reason="goodbye"))
            case messages.WebrtcOfferMessage(sdp=sdp):
                self._begin_to_attach(sdp)

    def _heard_ms(self, message: messages.BargeInMessage) -> int:
        """The position of a barge_in in the whole answer; 0: unknown. The client counts from its latest playback_start:
        in an answer that was resumed, that is the `from_ms` of the current Speak. The reducer caps a position that is
        too high because the message crossed the new playback_start.
        """
        if message.position_ms is None:
            return 0
        speaks = self._live.state.outstanding("Speak")
        begins_ms = sum(int(str(one.payload["from_ms"])) for one in speaks if one.target == message.playback_id)
        return min(begins_ms + message.position_ms, LONGEST_MS)

    def _begin_to_attach(self, offer_sdp: str) -> None:
        """Answer the offer in a task: a slow speech-to-text must not delay noticing that the client left or hung up."""
        if "voice" not in self._live.grant.may:
            self._refuse("your token allows to type, not to speak")
            return
        if not self._offers.take():
            self._refuse(f"too many offers: wait a second between them, after {MOST_OFFERS} in a row")
            return
        self._stop_attaching()
        work = self._attach(offer_sdp)
        self._attaching = asyncio.create_task(work, name=f"{self._live.session_id}:attach")

    def _stop_attaching(self) -> None:
        """Cancel the offer that is being answered: a newer offer has replaced it, or the client has left."""
        if self._attaching is not None and not self._attaching.done():
            self._attaching.cancel()
            self._live.watch(self._attaching)

    def _refuse(self, why: str, error: BaseException | None = None) -> None:
        """Send `call_failed` to the client. Only a private gateway adds `error`: its callers are developers."""
        details = f" ({named_error(error)})" if error is not None and self._tells_details else ""
        message = f"the call could not be set up: {why}{details}"
        self._client.tell(messages.ErrorMessage(code="call_failed", message=message))

    async def _attach(self, offer_sdp: str) -> None:
        """Answer an offer, and attach its handler once the media connection is up."""
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
                counters=self._node.counters,
            )
        except OfferRefused as error:
            self._refuse(str(error))
            return
        except ServiceError as error:
            logger.warning("the call of %s has no speech-to-text: %s", session_id, error)
            self._refuse("speech is not understood here just now", error)
            return
        except (asyncio.CancelledError, Exception) as error:  # a failing port ends the call, not the conversation
            if is_cancelled(error):
                raise
            logger.exception("the call of %s could not be set up", session_id)
            self._refuse("something broke here; try again, or type", error)
            return
        if not await self._register(handler) or live.client is not self._client:
            await handler.close()  # another connection took over the session while the call was set up
            return
        self._node.begin(live)
        self._client.tell(messages.WebrtcAnswerMessage(sdp=answer_sdp, handler_id=handler_id))
        await self._attach_when_connected(handler)

    async def _attach_when_connected(self, handler: MediaHandler) -> None:
        """Wait until the caller can hear and be heard, then make the handler that of the session, in place of an older
        one. Without a connection, the session keeps the handler that it has.
        """
        live = self._live
        live.connecting = handler
        try:
            is_connected = await handler.connected()
        except asyncio.CancelledError:
            self._let_go(handler)
            raise
        finally:
            if live.connecting is handler:
                live.connecting = None
        if not is_connected or live.client is not self._client:
            self._let_go(handler)
            return
        self._replace_handler(handler, "replaced")
        self._node.report(HandlerAttached(session_id=live.session_id, handler_id=handler.handler_id))

    async def _register(self, handler: MediaHandler) -> bool:
        try:
            async with asyncio.timeout(REGISTER_S):
                await self._node.register_handler(handler.handler_id, self._live.session_id)
        except asyncio.CancelledError:
            self._live.watch(asyncio.create_task(handler.close(), name=f"{self._live.session_id}:unregistered"))
            raise
        except (TimeoutError, RedisError, OSError) as error:
            logger.warning("the call of %s could not be registered: %r", self._live.session_id, error)
            self._refuse(DELAYED)
            return False
        return True

    def _report(self, event: Input) -> None:
        """Report an event of the media layer. Forgets the handler when its media connection has ended. A handler
        whose connection never came up is not in the log: only the client hears of its end.
        """
        live = self._live
        is_attached = live.handler is not None and live.handler.handler_id == event.handler_id
        if is_attached or not isinstance(event, HandlerDetached):
            self._node.report(event)
        if isinstance(event, SttFinal) and event.text.strip():  # a cough starts no turn
            self._spoke()
        if isinstance(event, HandlerDetached):
            if is_attached and live.handler is not None:
                handler, live.handler = live.handler, None
                self._let_go(handler)
            if isinstance(live.client, WebSocketClient):
                words = f"the audio of the call was lost ({event.reason}); start the call again, or type"
                live.client.tell(messages.ErrorMessage(code="call_lost", message=words))

    def _tell_client(self, message: dict[str, str | int]) -> None:
        """Send a message to the session's current client: a call may outlive the connection that began it."""
        if isinstance(self._live.client, WebSocketClient):
            self._live.client.tell_raw(message)

    def _replace_handler(self, new: Handler | None, reason: str) -> None:
        """Replace the handler and report the old one as detached, without an await: no event comes in between."""
        live = self._live
        old, live.handler = live.handler, new
        if old is None:
            return
        if live.state.phase != "ENDED":
            self._node.report(
                HandlerDetached(
                    session_id=live.session_id,
                    handler_id=old.handler_id,
                    reason=reason,
                    unheard_ms=old.unheard_ms,
                )
            )
        self._let_go(old)

    def _let_go(self, handler: Handler) -> None:
        """Close a handler in a task. The end of the session waits for that task."""
        self._live.watch(asyncio.create_task(self._forget(handler), name=f"{self._live.session_id}:detach"))

    async def _forget(self, handler: Handler) -> None:
        await handler.close()
        await self._node.forget_handler(handler.handler_id)

    def leave(self, reason: str) -> None:
        """Handle the loss of the connection: detach its handler. The session waits for the client to reconnect."""
        if self._left:
            return
        self._left = True
        self._client.stop()
        self._stop_attaching()
        live = self._live
        if live.client is not self._client:
            return  # another connection already serves the session
        live.client = None  # now, before the handler is closed: the client may reconnect meanwhile
        if live.open is not None:
            self._node.discard(live)  # no input yet; the promised session stays valid for a while
            return
        self._replace_handler(None, reason)
        if live.state.phase != "ENDED":
            self._node.report(
                ClientDisconnected(session_id=live.session_id, client_id=self._client.client_id, reason=reason)
            )
