"""Hands each Opus packet on as it arrives, in place of aiortc's prefetching audio buffer and its decoder's thread.

aiortc holds four packets back for good (+80 ms) and, after a single lost packet, waits for sixteen and then stays
13 to 14 packets behind until the call ends (aiortc issue 543). Voice detection and speech-to-text need no smooth
clock, so nothing is gained by waiting: an Opus packet is a whole frame, and a lost one is a hole of 20 ms that the
microphone fills by the timestamps.
"""

from collections.abc import Callable

from aiortc.rtp import RtpPacket

from orchestrator.media.opus import RATE_HZ

_SEQUENCE_NUMBERS = 1 << 16
_MAX_MISORDER = 100
"""A packet that is at most so far behind is late. Its timestamp does not count."""
_TIMESTAMPS = 1 << 32
_LATEST_SAMPLES = 10 * RATE_HZ
"""A packet that is further behind is late too if its timestamp is at most this old: a network may hold packets back for
seconds while newer ones come on another path. Otherwise the sender has started its numbering again.
"""


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
            behind = (self._last - packet.sequence_number) % _SEQUENCE_NUMBERS
            moved = (packet.timestamp - self._timestamp) % _TIMESTAMPS
            if moved >= _TIMESTAMPS // 2:
                moved -= _TIMESTAMPS
            is_old = behind < _SEQUENCE_NUMBERS // 2 and -_LATEST_SAMPLES <= moved <= 0
            if behind <= _MAX_MISORDER or is_old:
                return False, None
            self._position += moved
        self._ssrc = packet.ssrc
        self._last = packet.sequence_number
        self._timestamp = packet.timestamp
        self._hear(packet._data, self._position)  # type: ignore[attr-defined]
        return False, None
