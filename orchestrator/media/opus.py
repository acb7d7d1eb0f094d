"""Encodes speech as Opus packets of 20 ms, decodes received ones, and reads their length and whether they say rest."""

from collections import OrderedDict, deque
from fractions import Fraction
from functools import cache
from hashlib import blake2b
from typing import Any, ClassVar, Literal

import av

RATE_HZ = 48_000
FRAME_MS = 20
FRAME_SAMPLES = RATE_HZ * FRAME_MS // 1000
FRAME_BYTES = 2 * FRAME_SAMPLES
SILENT_FRAME = bytes(FRAME_BYTES)
TIME_BASE = Fraction(1, RATE_HZ)
_BIT_RATE_BPS = 32_000
_COMPLEXITY = 5
"""0 to 10. 5 costs 0.22 ms of CPU per 20 ms frame, 10 costs 0.32; 5 is what phones use."""
_MOST_KNOWN = 15_000
"""Packets kept to be sent again: five minutes of speech, about 4 MB."""
_LED_IN_FRAMES = 5
"""Frames after which a new codec sounds as if it had encoded the whole stream (decision 041)."""
_FRAMES_MS = ((10, 20, 40, 60) * 3, (10, 20) * 2, (2.5, 5, 10, 20) * 4)
_PACKET_FRAME_MS = tuple(ms for mode in _FRAMES_MS for ms in mode)
"""Length of a frame by the five upper bits of a packet's first byte (RFC 6716, 3.1): SILK, hybrid, CELT."""
_LONGEST_PACKET_MS = 120
_REST_BYTES = 2
REST_MS = 400
"""Longest time between two packets of a sender that says nothing: what libopus takes, and browsers expect."""


def packet_ms(packet: bytes) -> float:
    """Audio in an Opus packet in ms, read from its first two bytes; 0 for an invalid packet (RFC 6716, 3.2)."""
    if not packet:
        return 0
    code = packet[0] & 3
    frames = (1, 2, 2, packet[1] & 63 if len(packet) > 1 else 0)[code]
    ms = frames * _PACKET_FRAME_MS[packet[0] >> 3]
    return ms if ms <= _LONGEST_PACKET_MS else 0


def says_rest(packet: bytes) -> bool:
    """Whether a packet says that silence follows: its sender sends no more than a packet in REST_MS, until it has sound
    again. Opus calls it discontinuous transmission (DTX).
    """
    return len(packet) <= _REST_BYTES


class EncodeError(RuntimeError):
    """libopus did not give exactly one packet for one frame."""


def audio_frame(pcm: bytes, rate_hz: int) -> av.AudioFrame:
    """Wrap 16-bit mono PCM in a PyAV frame. `pcm` must be non-empty and of even length."""
    frame = av.AudioFrame(format="s16", layout="mono", samples=len(pcm) // 2)
    frame.planes[0].update(pcm)
    frame.sample_rate = rate_hz
    frame.time_base = Fraction(1, rate_hz)
    return frame


def _codec(mode: Literal["r", "w"]) -> av.AudioCodecContext:
    codec = av.CodecContext.create("libopus", mode)
    assert isinstance(codec, av.AudioCodecContext)
    codec.sample_rate = RATE_HZ
    codec.layout = "mono"
    codec.format = "s16"
    return codec


class VoiceEncoder:
    """One Opus stream, mono, 48 kHz. Each playback has its own, so that no answer begins with the end of another.

    A sound that was encoded before, from its first frame on, is not encoded again: greetings, fillers and frequent
    answers repeat. Passing finished packets to aiortc takes half the CPU of passing frames: aiortc encodes frames in
    stereo at 96 kbit/s in a thread.
    """

    _known: ClassVar[OrderedDict[bytes, bytes]] = OrderedDict()
    """Digest of a stream up to a frame → the packet of that frame, in all calls of the process, the latest last."""

    def __init__(self) -> None:
        self._so_far = b""
        """Digest of the stream until now."""
        self._skipped: deque[bytes] = deque(maxlen=_LED_IN_FRAMES)
        """The last frames whose packets were known. The codec needs them before it encodes the next one."""
        codec = _codec("w")
        codec.bit_rate = _BIT_RATE_BPS
        codec.time_base = TIME_BASE
        codec.options = {"application": "voip", "compression_level": str(_COMPLEXITY)}
        self._codec = codec
        self._pts = 0

    def encode(self, pcm: bytes) -> bytes:
        """Encode one 20 ms frame (FRAME_BYTES) as one packet. Raises EncodeError when libopus returns more or none."""
        known = self._known
        self._so_far = so_far = blake2b(pcm, digest_size=16, key=self._so_far).digest()
        if (packet := known.get(so_far)) is not None:
            known.move_to_end(so_far)
            self._skipped.append(pcm)
            return packet
        while self._skipped:
            self._encode(self._skipped.popleft())
        packet = known[so_far] = self._encode(pcm)
        if len(known) > _MOST_KNOWN:
            known.popitem(last=False)
        return packet

    def _encode(self, pcm: bytes) -> bytes:
        frame = audio_frame(pcm, RATE_HZ)
        frame.pts = self._pts
        self._pts += FRAME_SAMPLES
        packets = self._codec.encode(frame)
        if len(packets) != 1:
            raise EncodeError(f"one frame gave {len(packets)} packets")
        return bytes(packets[0])


class VoiceDecoder:
    """Decodes the Opus packets of one microphone. In the event loop: a packet of 20 ms takes 0.04 ms, and to hand it to
    a thread and its sound back takes longer.
    """

    def __init__(self) -> None:
        self._codec = _codec("r")

    def decode(self, packet: bytes, position: int) -> list[av.AudioFrame]:
        """The sound of a packet, 48 kHz mono; the frame's `pts` is `position`. Raises av.FFmpegError."""
        encoded: av.Packet[Any] = av.Packet(packet)
        encoded.pts = position
        encoded.time_base = TIME_BASE
        return self._codec.decode(encoded)


@cache
def silence() -> bytes:
    """A packet of steady silence, encoded once. The track sends some of them after speech."""
    encoder = VoiceEncoder()
    return [encoder.encode(SILENT_FRAME) for _ in range(5)][-1]


@cache
def rest() -> bytes:
    """The packet that says rest: the first byte of one of silence, which names mode and length, and nothing else."""
    return bytes([silence()[0] & ~3])  # one frame, of no bytes
