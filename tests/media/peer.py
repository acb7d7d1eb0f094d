"""A WebRTC caller for tests: speaks when told to, sends silence otherwise, and records what it hears.

It encodes, decodes and paces with aiortc alone, so that a mistake in orchestrator.media is not made on both ends.
"""

import asyncio
import math
import time
import wave
from array import array
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from operator import mul
from pathlib import Path
from typing import NamedTuple

import av
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcconfiguration import RTCIceTransportPolicy
from aiortc.rtp import RtpPacket

from orchestrator.media.aiortc_private import replace_jitter_buffer
from orchestrator.media.ice import choose_addresses, peer_connection
from orchestrator.media.opus import rest
from orchestrator.media.settings import MediaSettings

RATE_HZ = 16_000
FRAME_BYTES = 640  # 20 ms
AUDIBLE_RMS = 300
RESTS_AFTER_FRAMES, REFRESHED_FRAMES = 10, 20


class HeardFrame(NamedTuple):
    """20 ms of the agent's audio: when it arrived (time.monotonic), how loud it is, its samples (48 kHz mono)."""

    at_s: float
    rms: int
    samples: array


class ReceivedPacket(NamedTuple):
    """One RTP packet of the agent's voice as it came off the wire."""

    at_s: float
    rtp_timestamp: int
    payload: bytes


class RecordingBuffer:
    """Passes packets to aiortc's decoder as they come, and writes them down."""

    def __init__(self, on_packet: Callable[[ReceivedPacket], None]) -> None:
        self._on_packet = on_packet

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        self._on_packet(ReceivedPacket(time.monotonic(), packet.timestamp, packet.payload))
        return False, JitterFrame(data=packet._data, timestamp=packet.timestamp)


class CallPeer:
    """The browser's part of a call. `offer` → the service's answer → `answered`; then `say` and look at `heard`."""

    def __init__(
        self,
        ice_host_addresses: tuple[str, ...] = ("127.0.0.1",),
        relay: RTCIceServer | None = None,
        *,
        rests: bool = False,
    ) -> None:
        """`relay`: all datagrams go through this TURN server, as with a browser's `iceTransportPolicy: relay`. `rests`:
        the microphone sends few packets of silence, as browsers do where an answer says usedtx=1.
        """
        self.heard: list[HeardFrame] = []
        self.packets: list[ReceivedPacket] = []
        self.voice = RestingVoiceTrack() if rests else VoiceTrack()
        self.connection = peer_connection() if relay is None else _through(relay)
        self.connection.addTrack(self.voice)
        replace_jitter_buffer(self.connection.getTransceivers()[0].receiver, RecordingBuffer(self._received))
        if relay is None:
            choose_addresses(self.connection, MediaSettings(ice_host_addresses=ice_host_addresses))
        self.connection.on("track", self._on_track)
        self._news = asyncio.Event()
        self.connection.on("connectionstatechange", self._news.set)
        self._listening: asyncio.Task[None] | None = None

    async def offer(self) -> str:
        """The SDP offer, candidates included."""
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def answered(self, sdp: str, within_s: float = 10) -> None:
        """Take the service's SDP answer and wait for the connection."""
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        await self.until(lambda: self.connection.connectionState == "connected", within_s)

    async def say(self, pcm_16k: bytes) -> None:
        """Speak 16 kHz mono PCM; returns when its last frame has left. `voice.began_s` says when its first did."""
        await self.voice.say(pcm_16k)

    async def until(self, true: Callable[[], bool], within_s: float = 5) -> None:
        """Wait for a condition that depends on what is heard or on the connection. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while not true():
                self._news.clear()
                await self._news.wait()

    async def hears_agent(self, within_s: float = 5, after_s: float = 0.0) -> HeardFrame:
        """The first audible frame that arrived after `after_s` (time.monotonic)."""

        def first() -> HeardFrame | None:
            return next((f for f in self.heard if f.at_s > after_s and f.rms > AUDIBLE_RMS), None)

        await self.until(lambda: first() is not None, within_s)
        found = first()
        assert found is not None
        return found

    async def hears_silence(self, lasting_s: float = 0.2, within_s: float = 10) -> None:
        """Wait until nothing audible has come for so long."""
        frames = math.ceil(lasting_s * 50)
        start = len(self.heard)
        await self.until(
            lambda: len(self.heard) - start >= frames and all(f.rms < AUDIBLE_RMS for f in self.heard[-frames:]),
            within_s,
        )

    async def reaches(self, rtp_timestamp: int, within_s: float = 5) -> None:
        """Wait until the packet that a `playback_mark` names has come; then a browser would confirm."""
        await self.until(lambda: any(p.rtp_timestamp == rtp_timestamp for p in self.packets[-100:]), within_s)

    async def gets(self, count: int, *, from_rtp: int) -> list[bytes]:
        """What so many packets hold, from the one with this timestamp on."""

        def later() -> list[bytes]:
            return [p.payload for p in self.packets if (p.rtp_timestamp - from_rtp) % (1 << 32) < 1 << 31]

        await self.until(lambda: len(later()) >= count)
        return later()[:count]

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
        await self.connection.close()

    def _received(self, packet: ReceivedPacket) -> None:
        self.packets.append(packet)
        self._news.set()

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._listening = asyncio.ensure_future(self._listen(track))

    async def _listen(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            at_s = time.monotonic()
            left = array("h", bytes(frame.planes[0])[: 4 * frame.samples])[::2]
            few = left[::4]
            rms = int(math.sqrt(sum(map(mul, few, few)) / len(few)))
            self.heard.append(HeardFrame(at_s, rms, left))
            self._news.set()


def _through(relay: RTCIceServer) -> RTCPeerConnection:
    return RTCPeerConnection(RTCConfiguration([relay], iceTransportPolicy=RTCIceTransportPolicy.RELAY))


class VoiceTrack(MediaStreamTrack):
    """A microphone: a 20 ms frame at every tick, of what was said or of silence."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.began_s = 0.0
        self._frames: deque[bytes] = deque()
        self._all_said = asyncio.Event()
        self._first = False
        self._start_s = 0.0
        self._ticks = 0
        self._silent_frames = 0

    async def say(self, pcm: bytes) -> None:
        whole = pcm + bytes(-len(pcm) % FRAME_BYTES)
        self._frames.extend(whole[i : i + FRAME_BYTES] for i in range(0, len(whole), FRAME_BYTES))
        self._first = True
        self._all_said.clear()
        await self._all_said.wait()

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        now_s = time.monotonic()
        if self._ticks == 0:
            self._start_s = now_s
        await asyncio.sleep(max(0.0, self._start_s + self._ticks * 0.02 - now_s))
        pcm = bytes(FRAME_BYTES)
        self._silent_frames += 1
        if self._frames:
            self._silent_frames = 0
            pcm = self._frames.popleft()
            if self._first:
                self._first = False
                self.began_s = time.monotonic()
        else:
            self._all_said.set()
        frame = av.AudioFrame(format="s16", layout="mono", samples=FRAME_BYTES // 2)
        frame.planes[0].update(pcm)
        frame.sample_rate = RATE_HZ
        frame.pts = self._ticks * FRAME_BYTES // 2
        frame.time_base = Fraction(1, RATE_HZ)
        self._ticks += 1
        return frame


class RestingVoiceTrack(VoiceTrack):
    """A microphone under Opus's discontinuous transmission (DTX), as measured in Chromium: after 200 ms of silence, a
    packet that says rest; every 400 ms, one of silence and one more that says rest.
    """

    async def recv(self) -> "av.AudioFrame | av.Packet":
        while True:
            frame = await super().recv()
            rested = self._silent_frames - RESTS_AFTER_FRAMES
            if rested < 0 or (rested and rested % REFRESHED_FRAMES == 0):
                return frame
            if rested % REFRESHED_FRAMES == (1 if rested > REFRESHED_FRAMES else 0):
                packet = av.Packet(rest())
                packet.pts, packet.time_base = frame.pts, frame.time_base
                return packet


def read_wav(path: Path) -> bytes:
    """The samples of a 16 kHz mono 16-bit file, for `say`."""
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE_HZ, 1, 2)
        return file.readframes(file.getnframes())
