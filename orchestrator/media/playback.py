"""One piece of agent speech: from the chunks of a synthesiser to when the client has heard it, or it is thrown away."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from orchestrator.media.opus import FRAME_MS, SILENT_FRAME, VoiceEncoder
from orchestrator.media.resampling import ToOpusFrames
from orchestrator.media.settings import MediaSettings
from orchestrator.services.ports import SpeechChunk

logger = logging.getLogger(__name__)

ClientMessage = dict[str, str | int]

_PIECE_MS = 200
_TAIL_FRAMES = 3
"""Silence sent through the encoder when speech runs out: its last 6.5 ms come out with the frame after."""


class PlaybackStopped(Exception):  # noqa: N818  (it reports what happened, nothing went wrong)
    """The playback was stopped before its end: by command, by a newer one, or with the connection."""


@dataclass(frozen=True, slots=True)
class PlaybackEnd:
    """A playback ended by itself after `position_ms` of speech; a timer speaks for a client that stays silent."""

    confirmed_by: Literal["client", "timer"]
    position_ms: int


class Playback:
    """Made by MediaHandler.play. One task writes and finishes; the track takes a packet every 20 ms.

    The callbacks `on_started` and `on_progress` run on the event loop, soon after the fact, and not once after a
    stop. `tell_client` carries playback_start and playback_mark; `heard` gets each frame of PCM as it leaves.
    """

    def __init__(
        self,
        playback_id: str,
        settings: MediaSettings,
        *,
        tell_client: Callable[[ClientMessage], None],
        heard: Callable[[bytes], None],
        on_started: Callable[[], None],
        on_progress: Callable[[int], None],
    ) -> None:
        self.playback_id = playback_id
        self._settings = settings
        self._tell_client = tell_client
        self._heard = heard
        self._on_started = on_started
        self._on_progress = on_progress
        self._resampler = ToOpusFrames()
        self._encoder = VoiceEncoder()
        self._frames: deque[bytes] = deque()
        self._frames_out = 0
        self._tail_left = 0
        self._written_us = 0
        self._announced = False
        self._progress_ms = 0
        self._complete = False
        self._marked = False
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._over = asyncio.Event()
        self._end: PlaybackEnd | None = None

    @property
    def position_ms(self) -> int:
        """Speech handed out so far, in its own time."""
        return min(self._frames_out * FRAME_MS, self._written_us // 1000)

    @property
    def is_over(self) -> bool:
        """Stopped, or ended and confirmed."""
        return self._over.is_set()

    @property
    def is_drained(self) -> bool:
        """All speech has left; what is missing is a tail of silence and the client's word."""
        return self._marked

    async def write(self, chunk: SpeechChunk) -> None:
        """Add speech. Waits while more than `buffer_ahead_ms` is still to be played.

        Raises PlaybackStopped, at once or from the middle of its wait; ValueError for half a sample.
        """
        if len(chunk.pcm) % 2:
            raise ValueError(f"a chunk of {len(chunk.pcm)} bytes is not 16-bit PCM")
        piece_bytes = 2 * (chunk.sample_rate_hz * _PIECE_MS // 1000)
        for start in range(0, len(chunk.pcm), piece_bytes):
            await self._wait_for_room()
            piece = chunk.pcm[start : start + piece_bytes]
            self._written_us += len(piece) // 2 * 1_000_000 // chunk.sample_rate_hz
            self._append(self._resampler.feed(piece, chunk.sample_rate_hz))
        self._raise_if_stopped()

    async def finish(self) -> PlaybackEnd:
        """No more speech comes. Waits until all of it is played and the client, or a timer for it, said so.

        Raises PlaybackStopped.
        """
        self._raise_if_stopped()
        if not self._complete:
            self._append(self._resampler.flush())
            self._complete = True
            if self._written_us == 0:
                self._conclude("timer")  # no client can confirm what it was never told about
        await self._over.wait()
        if self._end is None:
            raise PlaybackStopped(self.playback_id)
        return self._end

    def take_packet(self, next_rtp_timestamp: Callable[[], int]) -> bytes | None:
        """The packet for this tick of the track, or None when there is nothing to send.

        While it is paused, there is nothing but the tail of silence: what has left is heard to its last millisecond.
        """
        if not self._paused:
            if self._frames:
                return self._take_speech()
            if self._complete and not self._marked:
                self._mark(next_rtp_timestamp())
        if self._tail_left == 0:
            return None
        self._tail_left -= 1
        return self._encoder.encode(SILENT_FRAME)

    def pause(self) -> None:
        """Hand out no speech from now on and keep what there is. What left before may still be reported, and confirmed
        if it was all.
        """
        self._paused = True

    def resume(self) -> None:
        """Go on with the frame after the last one that left."""
        self._paused = False

    def stop(self) -> None:
        """Drop what is left, at once. Without effect when it is over."""
        if not self._over.is_set():
            self._frames.clear()
            self._tail_left = 0
            self._settle()

    def confirm(self) -> None:
        """The client heard the end. Before everything was sent it cannot have: without effect then."""
        if self._marked:
            self._conclude("client")

    async def _wait_for_room(self) -> None:
        while True:
            self._raise_if_stopped()
            if len(self._frames) * FRAME_MS <= self._settings.buffer_ahead_ms:
                return
            self._room.clear()
            await self._room.wait()

    def _append(self, frames: list[bytes]) -> None:
        if frames and not self._announced:
            self._announced = True
            self._tell_client({"type": "playback_start", "playback_id": self.playback_id})
        self._frames.extend(frames)

    def _take_speech(self) -> bytes:
        pcm = self._frames.popleft()
        self._frames_out += 1
        self._tail_left = _TAIL_FRAMES
        self._heard(pcm)
        self._notify()
        if len(self._frames) * FRAME_MS <= self._settings.buffer_ahead_ms:
            self._room.set()
        return self._encoder.encode(pcm)

    def _notify(self) -> None:
        if self._frames_out == 1:
            self._soon(self._on_started)
        position_ms = self.position_ms
        if position_ms - self._progress_ms >= self._settings.progress_interval_ms:
            self._progress_ms = position_ms
            self._soon(lambda: self._on_progress(position_ms))

    def _mark(self, rtp_timestamp: int) -> None:
        """`rtp_timestamp` is that of the first tail packet, which carries the end of the encoder's look-ahead."""
        self._marked = True
        self._soon(
            lambda: self._tell_client({"type": "playback_mark", "playback_id": self.playback_id, "rtp": rtp_timestamp})
        )
        wait_s = self._settings.confirmation_timeout_ms / 1000
        self._timer = asyncio.get_running_loop().call_later(wait_s, lambda: self._conclude("timer"))

    def _soon(self, callback: Callable[[], None]) -> None:
        """Not now: the caller is the track, which owes aiortc a packet and may not fail."""

        def call_unless_stopped() -> None:
            if self._end is not None or not self._over.is_set():
                callback()

        asyncio.get_running_loop().call_soon(call_unless_stopped)

    def _conclude(self, confirmed_by: Literal["client", "timer"]) -> None:
        if not self._over.is_set():
            self._end = PlaybackEnd(confirmed_by, self.position_ms)
            self._settle()

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._over.set()
        self._room.set()

    def _raise_if_stopped(self) -> None:
        if self._over.is_set() and self._end is None:
            raise PlaybackStopped(self.playback_id)
