"""A playback without a track or a network, for tests: ticked by hand, and everything that it says written down."""

import asyncio
import math
from array import array

from orchestrator.media.playback import TrackPlayback
from orchestrator.media.settings import MediaSettings
from orchestrator.services.ports import SpeechChunk

QUICK = MediaSettings(confirmation_timeout_ms=30)


class Player:
    """A playback and what it told the world."""

    def __init__(self, settings: MediaSettings = QUICK, caller_came_s: float = math.inf) -> None:
        self.told: list[dict[str, str | int]] = []
        self.started = 0
        self.progress: list[int] = []
        self.heard = bytearray()
        self.playback = TrackPlayback(
            "answer_1",
            settings,
            tell_client=self.told.append,
            heard=self.heard.extend,
            on_started=self._started,
            on_progress=self.progress.append,
            caller_came_s=lambda: caller_came_s,
            wake=lambda: None,
        )

    @property
    def heard_bytes(self) -> int:
        """How much speech has left."""
        return len(self.heard)

    def tick(self, times: int = 1) -> list[bytes]:
        """What the next ticks of the track send, without the wait between them."""
        packets = [self.playback.take_packet(lambda: 77) for _ in range(times)]
        return [packet for packet in packets if packet is not None]

    async def play_out(self) -> None:
        """Tick until everything has left."""
        async with asyncio.timeout(5):
            while not self.playback.is_drained:
                self.tick()
                await asyncio.sleep(0)

    def _started(self) -> None:
        self.started += 1


def speech(duration_ms: int, rate_hz: int = 24_000) -> SpeechChunk:
    """A tone, which is all the same to a player."""
    samples = array("h", (4000 * (-1) ** (i // 50) for i in range(rate_hz * duration_ms // 1000)))
    return SpeechChunk(samples.tobytes(), rate_hz)
