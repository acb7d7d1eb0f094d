"""Spoken test sentences: espeak-ng through ctypes, as 16 kHz mono PCM."""

import ctypes
import shutil
import tempfile
from array import array
from pathlib import Path

import av
import espeakng_loader

_SYNCHRONOUS = 2
_UTF8 = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speak(text: str) -> bytes:
    """`text` as 16 kHz mono s16 PCM, without silence around it worth mentioning.

    Loads a private copy of the library: its state is global, and the service under test may use it as well.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.CDLL(shutil.copy(espeakng_loader.get_library_path(), Path(folder) / "espeak.so"))
    rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 100, str(espeakng_loader.get_data_path()).encode(), 0)
    assert rate_hz > 0
    pieces: list[bytes] = []

    def take(samples: object, count: int, _events: object) -> int:
        if samples and count:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _CALLBACK(take)
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetVoiceByName(b"en-us")
    spoken = text.encode() + b"\0"
    library.espeak_Synth(spoken, ctypes.c_size_t(len(spoken)), 0, 1, 0, _UTF8, None, None)
    return resample(b"".join(pieces), rate_hz)


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
