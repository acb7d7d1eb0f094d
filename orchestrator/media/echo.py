"""The echo guard: sound of the agent that loudspeakers put back into the microphone is not the caller's voice.

Browsers cancel echo, but not all of it, and telephones often none. Without the optional packages, sound that is quiet
beside the agent counts as echo (LoudnessGuard); with them the echo is taken out of the sound that the VAD judges
(echo_canceller.py). Speech-to-text hears the microphone as it is.
"""

import importlib.util
from collections import deque
from typing import Protocol

from orchestrator.media.settings import MediaSettings
from orchestrator.media.vad import loudness_rms

FREE_AFTER_MS = 1_000
"""Silence beside the agent after which a microphone counts as free of echo. It doubles with each sound that ends it."""
FIRST_WORDS_MS = 1_000
"""How long a microphone stays free after such a sound: a caller's first words are heard."""
AUDIBLE_RMS = 600
"""A frame of the agent that is louder than this would be heard in an echo."""
_FRAME_MS, _BYTES_PER_MS = 20, 32


class EchoGuard(Protocol):
    """Follows what the agent says and what the microphone hears, of one call."""

    def played(self, pcm: bytes, now_s: float) -> None:
        """Record 20 ms of the agent's voice (48 kHz mono PCM) that were sent to the client."""
        ...

    def heard(self, pcm: bytes, now_s: float) -> tuple[bytes, int]:
        """Take the microphone's next sound (16 kHz mono PCM). Return the sound to judge, and the loudness (RMS) below
        which it counts as echo; 0 while the agent is not audible.
        """
        ...


class LoudnessGuard:
    """EchoGuard that remembers how loud the agent was lately: quieter sound counts as echo. Changes no sound.

    Silero detects speech 40 dB below the agent's voice, so without a threshold each leftover of it interrupts. A
    microphone that was silent while the agent was audible has no leftover: there, any sound is the caller's.
    """

    def __init__(self, settings: MediaSettings) -> None:
        self._settings = settings
        self._played: deque[tuple[float, int]] = deque()
        self._spoken_ms = 0.0
        """How much of the agent was audible since the microphone was last heard."""
        self._silent_ms = 0.0
        """How long the microphone has been silent beside the audible agent."""
        self._needed_ms = FREE_AFTER_MS
        self._words_ms = 0.0
        """The rest of FIRST_WORDS_MS."""

    def played(self, pcm: bytes, now_s: float) -> None:
        """See EchoGuard."""
        self._forget(now_s)
        rms = loudness_rms(pcm, every=4)
        self._played.append((now_s, rms))
        self._spoken_ms += _FRAME_MS * (rms > AUDIBLE_RMS)

    def heard(self, pcm: bytes, now_s: float) -> tuple[bytes, int]:
        """See EchoGuard."""
        self._forget(now_s)
        if not self._played:
            self._spoken_ms = 0.0
            return pcm, 0
        floor = self._settings.echo_floor_rms
        if self._is_free(pcm):
            return pcm, floor
        loudest = max(rms for _, rms in self._played)
        return pcm, max(floor, loudest * self._settings.echo_permille // 1000)

    def _is_free(self, pcm: bytes) -> bool:
        """Whether the microphone is free of echo, with its next sound."""
        ms = len(pcm) / _BYTES_PER_MS
        hole = len(pcm) - len(pcm.lstrip(b"\0"))  # zeros: a microphone that rested before its sound
        sound = pcm[hole - hole % 2 :]
        self._words_ms = max(0.0, self._words_ms - ms)
        if loudness_rms(sound, every=4) < self._settings.echo_floor_rms:
            self._silent_ms += min(ms, self._spoken_ms)
        elif not self._words_ms:
            if self._silent_ms >= self._needed_ms:
                self._words_ms, self._needed_ms = FIRST_WORDS_MS, 2 * self._needed_ms
            self._silent_ms = 0.0
        self._spoken_ms = 0.0
        return self._words_ms > 0 or self._silent_ms >= self._needed_ms

    def _forget(self, now_s: float) -> None:
        horizon_s = now_s - self._settings.echo_window_ms / 1000
        while self._played and self._played[0][0] < horizon_s:
            self._played.popleft()


def open_echo_guard(settings: MediaSettings) -> EchoGuard:
    """Open the guard of one call. Where pywebrtc-audio is installed (extras `demo`, `onnx`), it takes the echo out."""
    if importlib.util.find_spec("pywebrtc_audio") is None:
        return LoudnessGuard(settings)
    from orchestrator.media.echo_canceller import EchoCanceller

    return EchoCanceller(settings, LoudnessGuard(settings))
