"""Converts between the rates of speech services, Opus (48 kHz) and speech-to-text (16 kHz)."""

import av

from orchestrator.media.opus import FRAME_BYTES, FRAME_SAMPLES, RATE_HZ, audio_frame

SPEECH_RATE_HZ = 16_000


def frame_pcm(frame: av.AudioFrame) -> bytes:
    """The samples of a mono s16 frame; its plane may be longer than the frame."""
    return bytes(frame.planes[0])[: 2 * frame.samples]


class ToOpusFrames:
    """Cuts mono PCM of any rate into frames of 20 ms at 48 kHz, what an Opus packet holds."""

    def __init__(self) -> None:
        self._rate_hz = 0
        self._resampler: av.AudioResampler | None = None

    def feed(self, pcm: bytes, rate_hz: int) -> list[bytes]:
        """The frames that are complete with `pcm`; a remainder waits for more. The rate may change between calls."""
        if not pcm:
            return []
        frames = self.flush() if rate_hz != self._rate_hz else []
        if self._resampler is None:
            self._resampler = av.AudioResampler("s16", "mono", RATE_HZ, frame_size=FRAME_SAMPLES)
            self._rate_hz = rate_hz
        frames.extend(frame_pcm(frame) for frame in self._resampler.resample(audio_frame(pcm, rate_hz)))
        return frames

    def flush(self) -> list[bytes]:
        """The remainder, the last frame filled up with silence."""
        if self._resampler is None:
            return []
        frames = [frame_pcm(frame).ljust(FRAME_BYTES, b"\0") for frame in self._resampler.resample(None)]
        self._resampler = None
        return frames


class ToSpeechRate:
    """Turns decoded microphone frames (48 kHz stereo) into 16 kHz mono PCM."""

    def __init__(self) -> None:
        self._resampler = av.AudioResampler("s16", "mono", SPEECH_RATE_HZ)

    def feed(self, frame: av.AudioFrame) -> bytes:
        """The first frame gives 304 samples, each later one 320: the filter keeps 1 ms of past."""
        frame.pts = None  # Timestamps are the caller's business; a jump must not make the resampler stretch.
        return b"".join(frame_pcm(resampled) for resampled in self._resampler.resample(frame))
