"""Hands each Opus packet to the decoder as it arrives, in place of aiortc's prefetching audio buffer.

aiortc holds four packets back for good (+80 ms) and, after a single lost packet, waits for sixteen and then stays
13 to 14 packets behind until the call ends (aiortc issue 543). Voice detection and speech-to-text need no smooth
clock, so nothing is gained by waiting: an Opus packet is a whole frame, and a lost one is a hole of 20 ms that the
microphone fills by the timestamps.
"""

from collections.abc import Callable

from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtpPacket

_SEQUENCE_NUMBERS = 1 << 16
_MAX_MISORDER = 100
"""A packet older than this is no straggler: the sender has started its numbering again."""


class ImmediateBuffer:
    """Releases every packet at once and drops what comes too late, or what `admits` does not let through."""

    def __init__(self, admits: Callable[[bytes], bool] = lambda _: True) -> None:
        self._admits = admits
        self._ssrc: int | None = None
        self._last = 0

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        """What aiortc asks of a jitter buffer: (ask for a new picture?, the frame to decode or None)."""
        if packet.ssrc == self._ssrc:
            ahead = (packet.sequence_number - self._last) % _SEQUENCE_NUMBERS
            behind = _SEQUENCE_NUMBERS - ahead
            if ahead == 0 or behind <= _MAX_MISORDER:
                return False, None
        self._ssrc = packet.ssrc
        self._last = packet.sequence_number
        if not self._admits(packet._data):  # type: ignore[attr-defined]
            return False, None
        return False, JitterFrame(data=packet._data, timestamp=packet.timestamp)  # type: ignore[attr-defined]
