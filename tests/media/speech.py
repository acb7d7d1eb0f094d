"""Spoken test sentences: the natural voice, as 16 kHz mono PCM, synthesised once and kept beside pytest's cache."""

import hashlib
import os
from array import array
from functools import cache
from pathlib import Path

import av

from orchestrator.reference import hibari_voice
from orchestrator.reference.hibari_voice import SAMPLE_RATE_HZ, HibariVoice

_KEPT = Path(__file__).parents[2] / ".pytest_cache" / "speech"
_SILENT_PEAK = 300


@cache
def speak(text: str) -> bytes:
    """`text` as 16 kHz mono s16 PCM, without silence around it worth mentioning."""
    kept = _KEPT / f"{hashlib.sha256(_version() + text.encode()).hexdigest()}.pcm"
    if kept.exists():
        return kept.read_bytes()
    voice = _voice()
    spoken = b"".join(voice.say(sentence).pcm for sentence in voice.sentences(text))
    pcm = _without_silence(resample(spoken, SAMPLE_RATE_HZ))
    _KEPT.mkdir(parents=True, exist_ok=True)
    written = kept.with_suffix(f".{os.getpid()}")  # another process may write the same
    written.write_bytes(pcm)
    written.replace(kept)
    return pcm


def resample(pcm: bytes, rate_hz: int, to_hz: int = 16_000) -> bytes:
    """Mono PCM at another rate."""
    frame = av.AudioFrame(format="s16", layout="mono", samples=len(pcm) // 2)
    frame.planes[0].update(pcm)
    frame.sample_rate = rate_hz
    resampler = av.AudioResampler("s16", "mono", to_hz)
    frames = [*resampler.resample(frame), *resampler.resample(None)]
    return b"".join(bytes(out.planes[0])[: 2 * out.samples] for out in frames)


def scaled(pcm: bytes, factor: float) -> bytes:
    """The same, louder or quieter."""
    return array("h", [max(-32768, min(32767, int(sample * factor))) for sample in array("h", pcm)]).tobytes()


def _without_silence(pcm: bytes) -> bytes:
    samples = array("h", pcm)
    loud = [at for at, sample in enumerate(samples) if abs(sample) > _SILENT_PEAK]
    return samples[loud[0] : loud[-1] + 1].tobytes()


@cache
def _voice() -> HibariVoice:
    return HibariVoice()


@cache
def _version() -> bytes:
    """Changes with the package and with what orch does to its sound."""
    return hashlib.sha256(Path(hibari_voice.__file__).read_bytes() + Path(__file__).read_bytes()).digest()
