"""The media connection of one session: a WebRTC peer, its microphone and the agent's voice, wired together."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiortc import RTCRtpSender, RTCRtpTransceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from events.envelope import Input
from events.inputs import HandlerDetached
from orchestrator.media.aiortc_private import (
    last_rtp_timestamp,
    outlive_goodbyes,
    replace_jitter_buffer,
    start_no_more,
    stop_receiver,
)
from orchestrator.media.datagrams import DatagramFilter, filter_datagrams, last_datagram_s, unheard_ms
from orchestrator.media.echo import open_echo_guard
from orchestrator.media.ice import choose_addresses, let_relays_in, peer_connection
from orchestrator.media.jitter_buffer import ImmediateBuffer
from orchestrator.media.listener import Listener
from orchestrator.media.microphone import Microphone
from orchestrator.media.offer import Offer, read_offer
from orchestrator.media.playback import MediaMessage, TrackPlayback
from orchestrator.media.settings import MediaSettings
from orchestrator.media.sources import bound_sources
from orchestrator.media.speech_model import open_speech_model
from orchestrator.media.track import AgentTrack
from orchestrator.media.utterance import OPEN_WITHIN_S, Utterances
from orchestrator.media.vad import VoiceActivity
from orchestrator.services.failures import ServiceError, cancellation_from_within_fails
from orchestrator.services.ports import Speaker, SpeechToTextPort
from orchestrator.session.commands import MicrophoneSetting
from orchestrator.teardown import end_within
from orchestrator.token_bucket import TokenBucket

logger = logging.getLogger(__name__)

_LONGEST_REASON = 500
GOODBYES_PER_S, MOST_GOODBYES = 1.0, 5.0
"""Ends of a caller's source (RTCP BYE) that are heard; further ones are dropped."""
DROPPED = "dropped_media"
"""The counter of datagrams, packets and reports that were not handled."""


class MediaHandler:
    """The audio of one session in both directions. Made by `accept`; runs on the event loop that called it.

    Reports only facts, through `report`, with session id, handler id and time of observation filled in. Reports nothing
    after `close` or after its one HANDLER_DETACHED. Messages for the browser go to `tell_client`.
    """

    def __init__(
        self,
        handler_id: str,
        session_id: str,
        report: Callable[[Input], None],
        tell_client: Callable[[MediaMessage], None],
        settings: MediaSettings,
        counters: Counter[str] | None = None,
    ) -> None:
        self.handler_id = handler_id
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._dropped: Counter[str] = Counter()
        self._goodbyes = TokenBucket(GOODBYES_PER_S, MOST_GOODBYES)
        """Reason → number of datagrams, packets and reports dropped."""
        self._session_id = session_id
        self._report_input = report
        self._tell_client = tell_client
        self._settings = settings
        self._echo = open_echo_guard(settings)
        self._microphone: Microphone | None = None
        self._playbacks: dict[str, TrackPlayback] = {}
        self._paused_early: str | None = None
        """Id of the playback last paused before `play` created it. One is enough: one playback is audible at a time."""
        self._gone = False
        self._settled = asyncio.Event()
        """Set once the peer is connected, or the connection has ended."""
        self._teardown: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._listener = Listener(handler_id, self._dropped, self._detach)
        self._filters: list[DatagramFilter] = []
        self._peer = peer_connection(settings, session_id)
        self._transceiver: RTCRtpTransceiver = self._peer.addTransceiver("audio", direction="sendrecv")
        self._track = AgentTrack(settings, self._next_rtp_timestamp)
        self._transceiver.sender.replaceTrack(self._track)

    @classmethod
    async def accept(
        cls,
        offer_sdp: str,
        *,
        handler_id: str,
        session_id: str,
        stt: SpeechToTextPort,
        report: Callable[[Input], None],
        tell_client: Callable[[MediaMessage], None],
        settings: MediaSettings,
        counters: Counter[str] | None = None,
    ) -> "tuple[MediaHandler, str]":
        """Answer an offer: returns the handler and the whole SDP answer (no candidates follow later).

        Raises OfferRefused before anything is opened, and ServiceError when speech-to-text cannot be opened. Nothing
        stays open after either.
        """
        offer = read_offer(offer_sdp)
        handler = cls(handler_id, session_id, report, tell_client, settings, counters)
        try:
            await handler._open_microphone(stt)
            return handler, await handler._negotiate(offer)
        except BaseException:
            await handler.close()
            raise

    @classmethod
    async def warm_up(cls, settings: MediaSettings) -> None:
        """Negotiate one local call, so that the libraries initialise before the first caller arrives.

        In the first call of a process this takes about 100 ms and delays other calls too. Raises the errors of aiortc
        when this machine cannot set up a call.
        """
        caller = peer_connection()
        handler = cls("warm_up", "", lambda _: None, lambda _: None, settings)
        try:
            caller.addTransceiver("audio", direction="sendrecv")
            await caller.setLocalDescription(await caller.createOffer())
            open_speech_model()
            await handler._negotiate(read_offer(caller.localDescription.sdp))
        finally:
            await handler.close()
            await caller.close()

    @property
    def unheard_ms(self) -> int:
        """How long the caller has not heard the agent, in ms, as far as its own silence shows."""
        return unheard_ms(self._filters)

    async def connected(self) -> bool:
        """Wait until the peer is connected. False: the connection has ended, before that or since. No audio of the
        caller is handled before this returns.
        """
        await self._settled.wait()
        return not self._gone

    def set_microphone(self, setting: MicrophoneSetting) -> None:
        """Open, gate or close the microphone (see Microphone). No effect when the connection is gone."""
        if self._microphone is not None and not self._gone:
            self._microphone.set(setting)

    def finish_utterance(self) -> None:
        """Ask the recogniser for its final transcript now. No effect without an open utterance."""
        if self._microphone is not None and not self._gone:
            self._microphone.finish_utterance()

    def play(
        self, playback_id: str, on_started: Callable[[], None], on_progress: Callable[[int], None]
    ) -> TrackPlayback:
        """Begin a playback; the caller writes speech to it. Stops the playback that is still audible and sends
        `playback_stop` for it, unless the new playback has the same id and continues it.

        `on_started` is called when the first frame has left, `on_progress` with the position in ms about once a
        second, and after a stall. Returns a stopped playback when the connection is gone, and a paused one after an
        early `pause`.
        """
        begins_paused = playback_id == self._paused_early
        self._forget_early_pause(playback_id)
        if (before := self._playbacks.pop(playback_id, None)) is not None:
            before.stop()
        older = self._track.playback
        if older is not None and older is not before and not older.is_drained:
            self.stop(older.playback_id)
        playback = TrackPlayback(
            playback_id,
            self._settings,
            tell_client=self._tell,
            heard=lambda pcm: self._echo.played(pcm, time.monotonic()),
            on_started=on_started,
            on_progress=on_progress,
            caller_came_s=lambda: last_datagram_s(self._filters),
            wake=self._track.wake,
        )
        if self._gone:
            playback.stop()
            return playback
        if begins_paused:
            playback.pause()
        self._playbacks = {known_id: known for known_id, known in self._playbacks.items() if not known.is_over}
        self._playbacks[playback_id] = playback
        self._track.playback = playback
        return playback

    def pause(self, playback_id: str) -> None:
        """Pause a playback: once this returns, no frame of speech leaves; queued frames are kept.

        The command may come before the playback exists, while its synthesis starts: the playback then begins paused.
        """
        playback = self._playbacks.get(playback_id)
        if playback is None:
            self._paused_early = playback_id
        else:
            playback.pause()

    def resume(self, playback_id: str) -> None:
        """Resume a playback where it was paused. No effect when it is unknown, over or not paused."""
        self._forget_early_pause(playback_id)
        playback = self._playbacks.get(playback_id)
        if playback is not None:
            playback.resume()

    def stop(self, playback_id: str) -> None:
        """Stop a playback: sends `playback_stop` first; once this returns, no frame of the playback leaves.

        No effect when the playback is unknown or over.
        """
        self._forget_early_pause(playback_id)
        playback = self._playbacks.pop(playback_id, None)
        if playback is None or playback.is_over:
            return
        self._tell({"type": "playback_stop", "playback_id": playback_id})
        playback.stop()
        if self._track.playback is playback:
            self._track.playback = None

    def client_confirmed(self, playback_id: str) -> None:
        """Record that the client has played this playback to its end."""
        playback = self._playbacks.get(playback_id)
        if playback is not None:
            playback.confirm()

    async def close(self) -> None:
        """Hang up and release everything. Safe to call twice, and after the peer has hung up."""
        await asyncio.shield(self._leave())

    def _forget_early_pause(self, playback_id: str) -> None:
        if self._paused_early == playback_id:
            self._paused_early = None

    async def _open_microphone(self, stt: SpeechToTextPort) -> None:
        activity = VoiceActivity(self._settings, open_speech_model())
        try:
            async with asyncio.timeout(OPEN_WITHIN_S):
                speaker = Speaker(self._session_id, self._settings.language)
                with cancellation_from_within_fails("speech-to-text"):
                    utterances = await Utterances.open(self._settings, stt, self._say, speaker)
        except TimeoutError as error:
            raise ServiceError(f"speech-to-text did not open within {OPEN_WITHIN_S:g} s") from error
        may_hear = self._listener.may_hear
        self._microphone = Microphone(self._settings, activity, self._echo, utterances, self._say, may_hear)
        self._listener.microphone = self._microphone

    async def _negotiate(self, offer: Offer) -> str:
        peer = self._peer
        replace_jitter_buffer(self._transceiver.receiver, ImmediateBuffer(self._listener.hear))
        bound_sources(self._transceiver, self._dropped)
        outlive_goodbyes(self._transceiver.receiver, self._source_ended)
        self._filters = filter_datagrams(peer, self._dropped)
        last_rtp_timestamp(self._transceiver.sender)  # fails here rather than in the first playback
        opus = [codec for codec in RTCRtpSender.getCapabilities("audio").codecs if codec.name == "opus"]
        self._transceiver.setCodecPreferences(opus)
        peer.on("track", self._on_track)
        peer.on("connectionstatechange", self._on_connection_state)
        await peer.setRemoteDescription(RTCSessionDescription(offer.description(), "offer"))
        choose_addresses(peer, self._settings)
        await peer.setLocalDescription(await peer.createAnswer())
        for one in self._filters:
            one.watch_sockets()
        if not let_relays_in(peer) and self._settings.relay and self._session_id:
            logger.warning("handler %s has no relay: the TURN server of ORCH_RELAY gave none", self.handler_id)
        # aioice has no timeout of its own: it keeps waiting for remote candidates, and none are passed to it.
        wait_s = self._settings.connect_timeout_ms / 1000
        self._patience = asyncio.get_running_loop().call_later(wait_s, self._give_up)
        return offer.answer(peer.localDescription.sdp)

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track is self._transceiver.receiver.track:
            self._listening = asyncio.create_task(self._await_the_end(track))

    async def _await_the_end(self, track: MediaStreamTrack) -> None:
        """Detach when the track ends, which is for good, even if the peer sends more. No frame comes out of it: see
        ImmediateBuffer.
        """
        with suppress(MediaStreamError):
            await track.recv()
        if self._microphone is not None:
            self._microphone.go_quiet()
        hung_up = self._transceiver.receiver.transport.state == "closed"
        self._detach("peer connection closed" if hung_up else "the microphone's track ended")

    def _source_ended(self) -> None:
        """Handle RTCP BYE: the peer pauses its audio. A hang-up shows as a DTLS close or as lost ICE consent."""
        if self._microphone is None or self._gone:
            return
        if not self._goodbyes.take():
            self._dropped["goodbyes"] += 1
            return
        logger.info("handler %s: the microphone's source has ended; listening for the next", self.handler_id)
        self._microphone.go_quiet()

    def _on_connection_state(self) -> None:
        state = self._peer.connectionState
        if state == "connected" and self._patience is not None:
            self._patience.cancel()
            self._settled.set()
        elif state in ("failed", "closed"):
            self._detach(f"peer connection {state}")

    def _give_up(self) -> None:
        if self._peer.connectionState != "connected":
            self._detach(f"not connected within {self._settings.connect_timeout_ms} ms")

    def _detach(self, reason: str) -> None:
        """Handle a connection that ended by itself. Reports it once: `_leave` ends all reporting."""
        if not self._gone:
            logger.info("handler %s of %s has ended: %s", self.handler_id, self._session_id, reason)
        self._say(HandlerDetached(reason=reason[:_LONGEST_REASON], unheard_ms=self.unheard_ms))
        self._leave()

    def _leave(self) -> asyncio.Task[None]:
        """Stop reporting, listening and playing at once. The returned task releases the remaining resources."""
        self._gone = True
        self._settled.set()
        self._listener.microphone = None
        if self._teardown is None:
            if self._patience is not None:
                self._patience.cancel()
            if self._listening is not None:
                self._listening.cancel()
            self._track.playback = None
            for playback in self._playbacks.values():
                playback.stop()
            self._teardown = asyncio.create_task(self._release())
        return self._teardown

    async def _release(self) -> None:
        await asyncio.gather(self._release_recogniser(), self._release_peer())
        if total := self._dropped.total():
            self._counters[DROPPED] += total
            logger.warning(
                "handler %s dropped %s", self.handler_id, ", ".join(map("{0[1]} {0[0]}".format, self._dropped.items()))
            )

    async def _release_recogniser(self) -> None:
        if self._microphone is not None:
            await self._ends("recogniser", self._microphone.close())
            # Break the reference cycle: the voice detector (0.8 MB outside Python's heap) would wait for the collector.
            self._microphone = None

    async def _release_peer(self) -> None:
        start_no_more(self._transceiver)
        if not await self._ends("peer connection", self._peer.close()):
            await stop_receiver(self._transceiver.receiver, self._ends)

    async def _ends(self, what: str, ending: Awaitable[None]) -> bool:
        return await end_within(f"{what} of handler {self.handler_id}", ending, counters=self._counters)

    def _say(self, event: Input) -> None:
        if self._gone:
            return
        self._report_input(
            event.replace(
                session_id=self._session_id, handler_id=self.handler_id, observed_at_us=time.time_ns() // 1000
            )
        )

    def _tell(self, message: MediaMessage) -> None:
        try:
            self._tell_client(message)
        except Exception:
            # The caller must still run its next steps, above all the flush, when the message cannot be sent.
            logger.exception("handler %s could not tell the client %s", self.handler_id, message["type"])

    def _next_rtp_timestamp(self) -> int:
        return (last_rtp_timestamp(self._transceiver.sender) + self._track.samples_since_sent) % (1 << 32)
