"""Takes the agent's own voice out of the sound that the VAD judges, by WebRTC's AEC3, in calls that have an echo.

AEC3 takes everybody for an echo until it knows better: a caller with headphones who speaks over the agent's first
sentence would be unheard for two seconds. So it is believed only where the microphone's sound is found to contain the
agent's (docs/decisions/038). Needs numpy and pywebrtc-audio.
"""

import math
from typing import Any

import numpy
from pywebrtc_audio import EchoCanceller as Aec3

from orchestrator.media.echo import LoudnessGuard
from orchestrator.media.opus import RATE_HZ, audio_frame
from orchestrator.media.resampling import SPEECH_RATE_HZ, ToSpeechRate
from orchestrator.media.settings import MediaSettings

Sound = numpy.ndarray[Any, numpy.dtype[numpy.int16]]

BLOCK = SPEECH_RATE_HZ // 100
"""Samples that AEC3 takes at a time."""
_BLOCK_BYTES = 2 * BLOCK
HOP = 512
"""Samples between two looks for an echo: as often as the VAD judges."""
WINDOW = 2_048
LONGEST_DELAY = 6_144
"""Samples, 384 ms: from a frame that is sent to its echo. Network, jitter buffer and room add up in it."""
_TRANSFORM = WINDOW + LONGEST_DELAY
LOST_S = 1.0
"""A microphone that is silent for longer has lost its time: the agent's speech until then is not compared with it."""
EARLIER = 320
"""Samples, 20 ms: a sound is placed earlier than it seemed to leave, since an echo never comes before its sound."""
PAUSE = 1_600
"""Samples, 100 ms: the agent's frames that are further apart do not follow each other."""
KEPT_LOOK = 0.985
"""What each look leaves of those before: they fade within two seconds."""
LEAST_PEAKS = ((4, 18.0), (16, 12.0), (math.inf, 6.5))
"""(number of looks, how far an echo's delay must stand out of all delays until then, in standard deviations).

Measured: rooms 6 to 50; callers who speak over the agent without an echo up to 15 in one look, 4 in the median of many.
"""
AUDIBLE_PEAK = 500
"""A louder sample of the agent's is audible."""
_FREQUENCIES_HZ = numpy.fft.rfftfreq(_TRANSFORM, 1 / SPEECH_RATE_HZ)
_IN_BAND = (_FREQUENCIES_HZ > 150) & (_FREQUENCIES_HZ < 4_000)
"""Where voices are."""


class EchoCanceller:
    """EchoGuard for one call. Cleans the sound only while the agent is audible."""

    def __init__(self, settings: MediaSettings, loudness: LoudnessGuard) -> None:
        self._settings = settings
        self._loudness = loudness
        self._to_speech_rate = ToSpeechRate()
        self._aec = Aec3(SPEECH_RATE_HZ)
        self._agent = AgentSound(0)
        self._look = EchoLook(settings.gate_peak)
        self._rest = b""
        """Sound that does not fill a block yet."""
        self._position = 0
        """Samples of the microphone's sound, without `_rest`."""
        self._heard_s = -math.inf

    def played(self, pcm: bytes, now_s: float) -> None:
        """See EchoGuard."""
        self._loudness.played(pcm, now_s)
        since_s = now_s - self._heard_s
        if since_s > LOST_S:
            return
        now = self._position + len(self._rest) // 2 + int(since_s * SPEECH_RATE_HZ)
        self._agent.add(self._to_speech_rate.feed(audio_frame(pcm, RATE_HZ)), now)

    def heard(self, pcm: bytes, now_s: float) -> tuple[bytes, int]:
        """See EchoGuard."""
        if now_s - self._heard_s > LOST_S:
            self._agent = AgentSound(self._position)
        self._heard_s = now_s
        pcm, echo_rms = self._loudness.heard(pcm, now_s)
        pcm = self._rest + pcm
        whole = len(pcm) // _BLOCK_BYTES * _BLOCK_BYTES if echo_rms else len(pcm)
        pcm, self._rest = pcm[:whole], pcm[whole:]
        agent = self._agent.take(self._position, whole // 2) if echo_rms else b""
        self._position += whole // 2
        self._agent.forget(self._position)
        if not echo_rms:
            return pcm, 0
        self._look.add(pcm, agent)
        return (self._cleaned(pcm, agent), self._settings.echo_floor_rms) if self._look.is_echo else (pcm, echo_rms)

    def _cleaned(self, pcm: bytes, agent: bytes) -> bytes:
        near, far = numpy.frombuffer(pcm, "<i2"), numpy.frombuffer(agent, "<i2")
        blocks = range(0, len(near), BLOCK)
        return b"".join(self._aec.process(near[at : at + BLOCK], far[at : at + BLOCK]).tobytes() for at in blocks)


class AgentSound:
    """The sound sent to the caller, on the microphone's time: placed by the sample that arrives when a frame leaves."""

    def __init__(self, begin: int) -> None:
        self._begin = begin
        """The sample that `_pcm` begins with. All before it is forgotten."""
        self._pcm = bytearray()
        self._last = begin - PAUSE - 1

    def add(self, pcm: bytes, now: int) -> None:
        """Append a frame that leaves at sample `now`. Frames that follow each other stay without a gap: their clock is
        steadier than the network's. The first frame after a pause is placed by `now` alone.
        """
        end = self._begin + len(self._pcm) // 2
        is_first, self._last = now - self._last > PAUSE, now
        if is_first or abs(now - end) >= LONGEST_DELAY // 2:
            before = 2 * max(0, now - EARLIER - self._begin)
            self._pcm[:] = self._pcm[:before].ljust(before, b"\0")
        self._pcm += pcm

    def take(self, begin: int, samples: int) -> bytes:
        """The samples from `begin` on; silence where nothing was sent."""
        at = 2 * (begin - self._begin)
        return bytes(self._pcm[at : at + 2 * samples]).ljust(2 * samples, b"\0")

    def forget(self, until: int) -> None:
        """Drop what lies before sample `until`. Frames that come too late for it are placed there."""
        del self._pcm[: 2 * (until - self._begin)]
        self._begin = until


class EchoLook:
    """Finds out whether the microphone's sound contains the agent's, at any delay.

    Generalised cross-correlation with phase transform, averaged over looks: an echo stands out at one delay, and voices
    that do not belong together at none.
    """

    def __init__(self, gate_peak: int) -> None:
        self._gate_peak = gate_peak
        self._near = bytearray(2 * WINDOW)
        self._far = bytearray(2 * _TRANSFORM)
        self._new = 0
        self._seen: Any = numpy.zeros(len(_IN_BAND), numpy.complex128)
        self._looks = 0
        self._peak = 0.0

    @property
    def is_echo(self) -> bool:
        """Whether the sound contains the agent's."""
        return self._peak >= next(peak for looks, peak in LEAST_PEAKS if self._looks <= looks)

    def add(self, near: bytes, far: bytes) -> None:
        """Take PCM of the microphone, and of the agent at the same time."""
        for kept, pcm in ((self._near, near), (self._far, far)):
            kept += pcm
            del kept[: len(pcm)]
        self._new += len(near) // 2
        if self._new >= HOP:
            self._new %= HOP
            self._take_a_look()

    def _take_a_look(self) -> None:
        near, far = numpy.frombuffer(bytes(self._near), "<i2"), numpy.frombuffer(bytes(self._far), "<i2")
        if not (_is_above(far, AUDIBLE_PEAK) and _is_above(near[-HOP:], self._gate_peak)):
            return
        self._looks += 1
        both = numpy.fft.rfft(far) * numpy.conj(numpy.fft.rfft(near, _TRANSFORM))
        self._seen = KEPT_LOOK * self._seen + numpy.where(_IN_BAND, both / (numpy.abs(both) + 1e-6), 0)
        likeness = numpy.fft.irfft(self._seen, _TRANSFORM)[: LONGEST_DELAY + 1]
        self._peak = float(likeness.max() / numpy.sqrt(numpy.mean(likeness**2)))


def _is_above(sound: Sound, peak: int) -> bool:
    return bool(sound.max() > peak or sound.min() < -peak)
