"""The agent's voice on the wire: an Opus packet every 20 ms while it speaks, and every 400 ms while it does not."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from orchestrator.media.opus import FRAME_MS, FRAME_SAMPLES, REST_MS, TIME_BASE, rest, silence
from orchestrator.media.playback import TrackPlayback
from orchestrator.media.settings import MediaSettings

logger = logging.getLogger(__name__)

_FRAME_S = FRAME_MS / 1000
SILENT_PACKETS = 5
"""Packets of silence between speech and rest: a decoder goes on with the last sound that it has heard."""


class AgentTrack(MediaStreamTrack):
    """Sends packets that say rest while no speech is due. After a pause without one, a browser's buffer grows to 0.5 s.

    `next_rtp_timestamp` returns the RTP timestamp that the next packet will carry on the wire.
    """

    kind = "audio"

    def __init__(self, settings: MediaSettings, next_rtp_timestamp: Callable[[], int]) -> None:
        super().__init__()
        self._settings = settings
        self._next_rtp_timestamp = next_rtp_timestamp
        self._quiet = SILENT_PACKETS
        """Packets without speech since the last one with it."""
        self._woken = asyncio.Event()
        self._anchor_s = 0.0
        self._ticks = 0
        self._sent_tick = -1
        self._playback: TrackPlayback | None = None

    @property
    def playback(self) -> TrackPlayback | None:
        """The playback that is audible from the next packet on; None is silence."""
        return self._playback

    @playback.setter
    def playback(self, playback: TrackPlayback | None) -> None:
        self._playback = playback
        self.wake()

    @property
    def samples_since_sent(self) -> int:
        """Samples between the last packet that was sent and the next one."""
        return (self._ticks - self._sent_tick) * FRAME_SAMPLES

    def wake(self) -> None:
        """Look for speech at the next tick: a rest may be over."""
        self._woken.set()

    async def recv(self) -> "av.Packet[Any]":
        """The next packet, when it is due. Raises MediaStreamError after stop() and nothing else: any other
        exception would end aiortc's sender for good, and the agent's voice with it.
        """
        if self.readyState != "live":
            raise MediaStreamError
        await self._wait_for_the_tick()
        # Chosen after the wait, so that a stop() during the wait applies to this packet.
        payload = self._payload()
        if payload is None and self._quiet > SILENT_PACKETS:
            payload = await self._after_a_rest()
        self._quiet = 0 if payload is not None else self._quiet + 1
        packet: av.Packet[Any] = av.Packet(payload or (rest() if self._quiet > SILENT_PACKETS else silence()))
        packet.pts = self._ticks * FRAME_SAMPLES
        packet.time_base = TIME_BASE
        self._sent_tick = self._ticks
        self._ticks += 1
        return packet

    async def _after_a_rest(self) -> bytes | None:
        """Wait until there may be speech, at most REST_MS, and then for the next tick."""
        self._woken.clear()
        try:
            async with asyncio.timeout(REST_MS / 1000):
                await self._woken.wait()
        except TimeoutError:
            pass  # a receiver wants to hear of a stream that rests
        self._ticks = max(self._ticks, math.ceil((time.monotonic() - self._anchor_s) / _FRAME_S))
        await self._wait_for_the_tick()
        return self._payload()

    async def _wait_for_the_tick(self) -> None:
        now_s = time.monotonic()
        if self._ticks == 0:
            self._anchor_s = now_s
        delay_s = self._anchor_s + self._ticks * _FRAME_S - now_s
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        elif -delay_s > self._settings.reanchor_ms / 1000:
            self._anchor_s -= delay_s

    def _payload(self) -> bytes | None:
        """The packet of speech that is due; None: there is none."""
        if self._playback is None:
            return None
        try:
            packet = self._playback.take_packet(self._next_rtp_timestamp)
        except Exception:
            logger.exception("a packet of playback %s was replaced by silence", self._playback.playback_id)
            return silence()
        if packet is None and self._playback.is_drained:
            self._playback = None
        return packet
