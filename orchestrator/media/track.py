"""The agent's voice on the wire: one Opus packet every 20 ms, for as long as the call lasts."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from orchestrator.media.opus import FRAME_MS, FRAME_SAMPLES, TIME_BASE, silence
from orchestrator.media.playback import Playback
from orchestrator.media.settings import MediaSettings

logger = logging.getLogger(__name__)


class AgentTrack(MediaStreamTrack):
    """Sends silence while no speech is due: after a pause in the stream a browser's buffer grows to 0.5 s.

    `next_rtp_timestamp` returns the RTP timestamp that the next packet will carry on the wire.
    """

    kind = "audio"

    def __init__(self, settings: MediaSettings, next_rtp_timestamp: Callable[[], int]) -> None:
        super().__init__()
        self._settings = settings
        self._next_rtp_timestamp = next_rtp_timestamp
        self._silence = silence()
        self._anchor_s = 0.0
        self._ticks = 0
        self.playback: Playback | None = None
        """The playback that is audible from the next packet on; None is silence."""

    async def recv(self) -> "av.Packet[Any]":
        """The next packet, when it is due. Raises MediaStreamError after stop() and nothing else: any other
        exception would end aiortc's sender for good, and the agent's voice with it.
        """
        if self.readyState != "live":
            raise MediaStreamError
        await self._wait_for_the_tick()
        # Chosen after the wait, so that a stop() during the wait applies to this packet.
        packet: av.Packet[Any] = av.Packet(self._payload())
        packet.pts = self._ticks * FRAME_SAMPLES
        packet.time_base = TIME_BASE
        self._ticks += 1
        return packet

    async def _wait_for_the_tick(self) -> None:
        now_s = time.monotonic()
        if self._ticks == 0:
            self._anchor_s = now_s
        delay_s = self._anchor_s + self._ticks * FRAME_MS / 1000 - now_s
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        elif -delay_s > self._settings.reanchor_ms / 1000:
            self._anchor_s -= delay_s

    def _payload(self) -> bytes:
        if self.playback is None:
            return self._silence
        try:
            packet = self.playback.take_packet(self._next_rtp_timestamp)
        except Exception:
            logger.exception("a packet of playback %s was replaced by silence", self.playback.playback_id)
            return self._silence
        if packet is None:
            if self.playback.is_drained:
                self.playback = None
            return self._silence
        return packet
