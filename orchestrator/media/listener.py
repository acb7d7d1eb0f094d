"""Decodes a caller's packets as they come, within their budget, and passes the sound to the microphone."""

import logging
from collections import Counter
from collections.abc import Callable

import av

from orchestrator.media.microphone import Microphone
from orchestrator.media.opus import VoiceDecoder, packet_ms, says_rest
from orchestrator.token_bucket import TokenBucket

logger = logging.getLogger(__name__)

_FAILURES_IN_A_ROW = 50
"""Failed packets in a row (one second of audio) after which the microphone counts as broken."""
_AHEAD_S = 1.0
"""How much audio a caller may send ahead of the wall clock, for example after a network stall; more is dropped."""
_LEAST_MS = 5
"""Least audio charged to that budget per packet: a shorter packet costs the same work."""


class Listener:
    """Hears one caller. Drops are counted by reason."""

    def __init__(self, name: str, dropped: Counter[str], broke: Callable[[str], None]) -> None:
        """`name`: of the handler, for log lines. `broke` is called when the audio cannot be processed."""
        self.microphone: Microphone | None = None
        """None before it is open, and after the call."""
        self._name = name
        self._dropped = dropped
        self._broke = broke
        self._packets = TokenBucket(1.0, _AHEAD_S)
        self._heard = TokenBucket(1.0, _AHEAD_S)
        self._decoder = VoiceDecoder()
        self._failures = 0
        """Packets in a row that could not be heard."""

    def hear(self, packet: bytes, position: int) -> None:
        """Handle an Opus packet, which begins at `position`, in samples. Never raises: it would end the reading of the
        connection.
        """
        microphone = self.microphone
        if microphone is None or not self._admits(packet):
            return
        if says_rest(packet):
            microphone.rest()
            return
        try:
            for frame in self._decoder.decode(packet, position):
                microphone.hear(frame)
            self._failures = 0
        except av.FFmpegError:
            self._dropped["malformed"] += 1
        except Exception:
            self._failures += 1
            if self._failures == 1:
                logger.exception("handler %s lost a frame of the microphone", self._name)
            if self._failures == _FAILURES_IN_A_ROW:
                self._broke("the microphone's audio cannot be processed")

    def may_hear(self, seconds: float) -> bool:
        """Whether `seconds` more of decoded audio are handled. Filled gaps between timestamps count."""
        if self._heard.take(seconds):
            return True
        self._dropped["faster than it plays"] += 1
        return False

    def _admits(self, packet: bytes) -> bool:
        """Whether a packet is decoded."""
        ms = packet_ms(packet)
        if ms and self._packets.take(max(ms, _LEAST_MS) / 1000):
            return True
        self._dropped["faster than it plays" if ms else "malformed"] += 1
        return False
