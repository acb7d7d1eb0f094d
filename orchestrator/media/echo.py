"""Keeps the agent from hearing itself: what loudspeakers put back into the microphone is not the caller's voice.

Browsers cancel echo, but not all of it, and telephones often none. Without the optional packages, sound that is quiet
beside the agent counts as echo (LoudnessGuard); with them the echo is taken out of the sound that the VAD judges
(echo_canceller.py). Speech-to-text hears the microphone as it is.
"""

import importlib.util
from collections import deque
from typing import Protocol

from orchestrator.media.settings import MediaSettings
from orchestrator.media.vad import loudness_rms

FREE_AFTER_MS, MOST_SILENT_MS = 1_000, 3_000
"""Silence beside the agent after which a microphone counts as free of echo, and how much of it is remembered."""
LOUD_COUNTS = 3
"""Milliseconds of silence that one millisecond of sound takes back: a caller is heard to the end of their first words,
and a loudspeaker that is turned on is noticed within a second."""
_BYTES_PER_MS = 32


class EchoGuard(Protocol):
    """Follows what the agent says and what the microphone hears, of one call."""

    def played(self, pcm: bytes, now_s: float) -> None:
        """Note 20 ms of the agent's voice (48 kHz mono PCM) that were sent to the client."""
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
        self._silent_ms = 0.0
        """How long the microphone was silent beside the agent, less what it was not."""

    def played(self, pcm: bytes, now_s: float) -> None:
        """See EchoGuard."""
        self._forget(now_s)
        self._played.append((now_s, loudness_rms(pcm, every=4)))

    def heard(self, pcm: bytes, now_s: float) -> tuple[bytes, int]:
        """See EchoGuard."""
        self._forget(now_s)
        if not self._played:
            return pcm, 0
        floor, is_free = self._settings.echo_floor_rms, self._silent_ms >= FREE_AFTER_MS
        if ms := len(pcm) / _BYTES_PER_MS:
            gained_ms = ms if loudness_rms(pcm, every=4) < floor else -LOUD_COUNTS * ms
            self._silent_ms = min(MOST_SILENT_MS, max(0.0, self._silent_ms + gained_ms))
        loudest = max(rms for _, rms in self._played)
        return pcm, floor if is_free else max(floor, loudest * self._settings.echo_permille // 1000)

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
