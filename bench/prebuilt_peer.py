"""A caller that costs little: it sends Opus packets that were made before, and does not decode what it hears.

The way between is the real one: ICE, DTLS and SRTP by aiortc.
"""

import asyncio
import functools
import time
from collections import deque
from typing import Any

import av
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtp import RtpPacket

from orchestrator.media.aiortc_private import replace_jitter_buffer
from orchestrator.media.opus import FRAME_MS, FRAME_SAMPLES, REST_MS, SILENT_FRAME, TIME_BASE, VoiceEncoder, rest
from orchestrator.media.resampling import SPEECH_RATE_HZ, ToOpusFrames
from tests.media.peer import CallPeer, ReceivedPacket

FRAME_S, REST_S = FRAME_MS / 1000, REST_MS / 1000
AUDIBLE_BYTES = 20
"""A packet of silence is shorter."""


@functools.cache
def packets_of(pcm_16k: bytes) -> tuple[bytes, ...]:
    cutting, encoder = ToOpusFrames(), VoiceEncoder()
    frames = [*cutting.feed(pcm_16k, SPEECH_RATE_HZ), *cutting.flush()]
    return tuple(encoder.encode(frame) for frame in frames)


class PacketTrack(MediaStreamTrack):
    """A microphone of prebuilt packets. `rests`: in silence it sends a packet every 400 ms, else one every 20 ms."""

    kind = "audio"

    def __init__(self, *, rests: bool) -> None:
        super().__init__()
        self.ended_s = 0.0
        """When the last packet of the latest words left (time.monotonic)."""
        self.rests = rests
        self._packets: deque[bytes] = deque()
        self._speaks = asyncio.Event()
        self._said = asyncio.Event()
        self._begun_s = 0.0
        self._tick = 0
        self._silence = VoiceEncoder().encode(SILENT_FRAME)

    async def say(self, pcm_16k: bytes) -> None:
        """Speak; returns when the last packet has left."""
        self._packets.extend(packets_of(pcm_16k))
        self._said.clear()
        self._speaks.set()
        await self._said.wait()

    async def recv(self) -> "av.Packet[Any]":
        now_s = time.monotonic()
        self._begun_s = self._begun_s or now_s
        if self._packets or not self.rests:
            self._tick += 1
            await asyncio.sleep(self._begun_s + self._tick * FRAME_S - now_s)
            return self._packet(self._packets.popleft() if self._packets else self._silence)
        try:
            await asyncio.wait_for(self._speaks.wait(), REST_S)
        except TimeoutError:
            self._tick = int((time.monotonic() - self._begun_s) / FRAME_S)
            return self._packet(rest())
        self._tick = int((time.monotonic() - self._begun_s) / FRAME_S)
        return self._packet(self._packets.popleft())

    def _packet(self, payload: bytes) -> "av.Packet[Any]":
        packet: av.Packet[Any] = av.Packet(payload)
        packet.pts, packet.time_base = self._tick * FRAME_SAMPLES, TIME_BASE
        if not self._packets and self._speaks.is_set():
            self.ended_s = time.monotonic()
            self._speaks.clear()
            self._said.set()
        return packet


class _Unheard:
    """Writes packets down, and gives none to the decoder."""

    def __init__(self, peer: "PrebuiltPeer") -> None:
        self._peer = peer

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        self._peer.receives(ReceivedPacket(time.monotonic(), packet.timestamp, packet.payload))
        return False, None


class PrebuiltPeer(CallPeer):
    """CallPeer, for a fifth of its processor time. `heard` stays empty.

    `may_rest`: it rests in silence if the service's answer says usedtx=1, as browsers do.
    """

    def __init__(self, *, may_rest: bool = False) -> None:
        super().__init__()
        self._may_rest = may_rest
        self.microphone = PacketTrack(rests=False)
        self.connection.getSenders()[0].replaceTrack(self.microphone)
        replace_jitter_buffer(self.connection.getTransceivers()[0].receiver, _Unheard(self))

    async def answered(self, sdp: str, within_s: float = 10) -> None:
        self.microphone.rests = self._may_rest and "usedtx=1" in sdp
        await super().answered(sdp, within_s)

    async def say(self, pcm_16k: bytes) -> None:
        await self.microphone.say(pcm_16k)

    def receives(self, packet: ReceivedPacket) -> None:
        self._received(packet)

    def audible_s(self, after_s: float) -> float | None:
        """When the first packet with sound came after a time; None: none has come yet."""
        later = (packet for packet in reversed(self.packets[-3_000:]) if packet.at_s > after_s)
        sound = [packet.at_s for packet in later if len(packet.payload) > AUDIBLE_BYTES]
        return sound[-1] if sound else None
