"""Hands each Opus packet on as it arrives, in place of aiortc's prefetching audio buffer and its decoder's thread.

aiortc holds four packets back for good (+80 ms) and, after a single lost packet, waits for sixteen and then stays
13 to 14 packets behind until the call ends (aiortc issue 543). Voice detection and speech-to-text need no smooth
clock, so nothing is gained by waiting: an Opus packet is a whole frame, and a lost one is a hole of 20 ms that the
microphone fills by the timestamps.
"""

from collections.abc import Callable

from aiortc.rtp import RtpPacket

_SEQUENCE_NUMBERS = 1 << 16
_MAX_MISORDER = 100
"""A packet older than this is no straggler: the sender has started its numbering again."""
_TIMESTAMPS = 1 << 32


class ImmediateBuffer:
    """Drops packets that come too late, and passes all others on at once. aiortc gets nothing to decode."""

    def __init__(self, hear: Callable[[bytes, int], None]) -> None:
        """`hear` gets an Opus packet, and where it begins: in samples since the first one, by the timestamps."""
        self._hear = hear
        self._ssrc: int | None = None
        self._last = 0
        self._timestamp = 0
        self._position = 0

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """What aiortc asks of a jitter buffer: (ask for a new picture?, the frame to decode or None)."""
        if packet.ssrc == self._ssrc:
            ahead = (packet.sequence_number - self._last) % _SEQUENCE_NUMBERS
            behind = _SEQUENCE_NUMBERS - ahead
            if ahead == 0 or behind <= _MAX_MISORDER:
                return False, None
            moved = (packet.timestamp - self._timestamp) % _TIMESTAMPS
            self._position += moved if moved < _TIMESTAMPS // 2 else moved - _TIMESTAMPS
        self._ssrc = packet.ssrc
        self._last = packet.sequence_number
        self._timestamp = packet.timestamp
        self._hear(packet._data, self._position)  # type: ignore[attr-defined]
        return False, None
