"""One playback of agent speech: from the synthesiser's chunks until the client has heard it or it is stopped."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from orchestrator.media.opus import FRAME_MS, SILENT_FRAME, VoiceEncoder
from orchestrator.media.resampling import ToOpusFrames
from orchestrator.media.settings import MediaSettings
from orchestrator.services.failures import ListenerGone
from orchestrator.services.ports import SpeechChunk

logger = logging.getLogger(__name__)

MediaMessage = dict[str, str | int]
"""A message of the media layer for the client, such as playback_start."""

_PIECE_MS = 200
_STALL_S = 0.1
"""Progress is reported after a longer gap in the speech: the heard position, counted by the clock, has run ahead."""
_TAIL_FRAMES = 3
"""Silent frames encoded after the last speech: the encoder delays the last 6.5 ms of speech into the next frame."""


class PlaybackStopped(ListenerGone):
    """The playback was stopped before its end: by command, by a newer playback, or with the connection."""


@dataclass(frozen=True, slots=True)
class PlaybackEnd:
    """A playback ended by itself after `position_ms` of speech. The timer confirms when the client does not."""

    confirmed_by: Literal["client", "timer"]
    position_ms: int


class TrackPlayback:
    """Made by MediaHandler.play. One task writes and finishes; the track takes a packet every 20 ms.

    The callbacks `on_started` and `on_progress` are scheduled on the event loop and never run after a stop.
    `tell_client` sends playback_start and playback_mark; `heard` gets each frame of PCM as it leaves; `caller_came_s`
    says when the last datagram of the caller came (time.monotonic); `wake` is called when a packet may be due again.
    """

    def __init__(
        self,
        playback_id: str,
        settings: MediaSettings,
        *,
        tell_client: Callable[[MediaMessage], None],
        heard: Callable[[bytes], None],
        on_started: Callable[[], None],
        on_progress: Callable[[int], None],
        caller_came_s: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self.playback_id = playback_id
        self._settings = settings
        self._tell_client = tell_client
        self._heard = heard
        self._on_started = on_started
        self._on_progress = on_progress
        self._caller_came_s = caller_came_s
        self._wake = wake
        self._resampler = ToOpusFrames()
        self._encoder = VoiceEncoder()
        self._frames: deque[bytes] = deque()
        self._frames_out = 0
        self._tail_left = 0
        self._written_us = 0
        self._announced = False
        self._progress_ms = 0
        self._starved_s: float | None = None
        """When the speech ran out before its end (time.monotonic)."""
        self._complete = False
        self._marked = False
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._over = asyncio.Event()
        self._end: PlaybackEnd | None = None

    @property
    def position_ms(self) -> int:
        """Speech sent so far, in ms of audio."""
        return min(self._frames_out * FRAME_MS, self._written_us // 1000)

    @property
    def is_over(self) -> bool:
        """Stopped, or ended and confirmed."""
        return self._over.is_set()

    @property
    def is_drained(self) -> bool:
        """All speech has left; only the tail of silence and the client's confirmation are missing."""
        return self._marked

    async def write(self, chunk: SpeechChunk) -> None:
        """Add speech. Waits while more than `buffer_ahead_ms` is queued.

        Raises PlaybackStopped, at once or during the wait, and ValueError for an odd number of bytes.
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
        """End the speech. Waits until all of it is played and the client, or a timer, has confirmed that.

        Raises PlaybackStopped.
        """
        self._raise_if_stopped()
        if not self._complete:
            self._append(self._resampler.flush())
            self._complete = True
            self._wake()
            if self._written_us == 0:
                self._conclude("timer")  # no client confirms a playback without playback_start
        await self._over.wait()
        if self._end is None:
            raise PlaybackStopped(self.playback_id)
        return self._end

    def take_packet(self, next_rtp_timestamp: Callable[[], int]) -> bytes | None:
        """The packet for this tick of the track, or None when there is nothing to send.

        While paused, only the tail of silence is sent: it carries the last milliseconds of the speech sent before.
        """
        if not self._paused:
            if self._frames:
                return self._take_speech()
            if self._complete and not self._marked:
                self._mark(next_rtp_timestamp())
            elif self._starved_s is None:
                self._starved_s = time.monotonic()
        if self._tail_left == 0:
            return None
        self._tail_left -= 1
        return self._encoder.encode(SILENT_FRAME)

    def pause(self) -> None:
        """Send no more speech and keep the queue. Speech sent before may still be reported, and confirmed if it was
        all of the playback.
        """
        self._paused = True

    def resume(self) -> None:
        """Continue with the frame after the last one sent."""
        self._paused = False
        self._wake()

    def stop(self) -> None:
        """Drop the queued speech at once. No effect when the playback is over."""
        if not self._over.is_set():
            self._frames.clear()
            self._tail_left = 0
            self._settle()

    def confirm(self) -> None:
        """Note that the client heard the end. No effect before all speech was sent: the client cannot have heard it."""
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
        self._wake()

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
        position_ms, starved_s, self._starved_s = self.position_ms, self._starved_s, None
        has_stalled = starved_s is not None and self._frames_out > 1 and time.monotonic() - starved_s > _STALL_S
        if has_stalled or position_ms - self._progress_ms >= self._settings.progress_interval_ms:
            self._progress_ms = position_ms
            self._soon(lambda: self._on_progress(position_ms))

    def _mark(self, rtp_timestamp: int) -> None:
        """`rtp_timestamp` is that of the first tail packet, which carries the end of the encoder's look-ahead."""
        self._marked = True
        self._soon(
            lambda: self._tell_client({"type": "playback_mark", "playback_id": self.playback_id, "rtp": rtp_timestamp})
        )
        marked_s = time.monotonic()
        self._conclude_after(self._settings.confirmation_timeout_ms, lambda: self._unconfirmed(marked_s))

    def _unconfirmed(self, marked_s: float) -> None:
        """Conclude if the caller is there. A caller who is gone has not heard the end: wait for the next call."""
        wait_ms = self._settings.lost_caller_ms - self._settings.confirmation_timeout_ms
        if self._caller_came_s() >= marked_s or wait_ms <= 0:
            self._conclude("timer")
        else:
            self._conclude_after(wait_ms, lambda: self._conclude("timer"))

    def _conclude_after(self, wait_ms: int, conclude: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(wait_ms / 1000, conclude)

    def _soon(self, callback: Callable[[], None]) -> None:
        """Schedule `callback` for later: the caller is the track, which must return a packet and must not fail."""

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
