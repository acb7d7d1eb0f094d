"""Sentences spoken by espeak-ng, as 16 kHz mono PCM: the voice for which the menu's recogniser was tuned."""

import ctypes
import shutil
import tempfile
from functools import cache
from pathlib import Path

import espeakng_loader

from tests.media.speech import resample

_SYNCHRONOUS = 2
_UTF8 = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@cache
def speak(text: str) -> bytes:
    """`text` as 16 kHz mono s16 PCM. Loads a private copy of the library: its state is global."""
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.CDLL(shutil.copy(espeakng_loader.get_library_path(), Path(folder) / "espeak.so"))
    rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 100, str(espeakng_loader.get_data_path()).encode(), 0)
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
