"""The espeak-ng engine through ctypes: one per process, one text at a time.

espeak-ng is GPL-3 and comes with the extra `orch-voice[espeak]`; it is loaded when it is first used.
Its state belongs to the process and is not thread-safe: hence the lock.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import NamedTuple

from orchestrator.services.failures import ServiceError

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_BUFFER_MS = 200
_PARAMETER_RATE = 1
_POSITION_CHARACTER = 1
_FLAG_UTF8 = 1
_EVENT_END_OF_LIST = 0
_EVENT_WORD = 1
_GO_ON, _ABORT = 0, 1


class WordEvent(NamedTuple):
    """A word begins: its first character in the text (from 0), and when it is spoken, in ms from the start."""

    position: int
    at_ms: int


Sink = Callable[[bytes, list[WordEvent]], bool]
"""Takes s16le mono PCM and the words that begin in it; false ends the synthesis."""


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Engine:
    """The loaded library. Get it from `engine()`; raises ServiceError when it is missing or does not start."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise ServiceError(
                "no text-to-speech: espeak-ng is not installed. Install orch-voice[espeak], or set ORCH_TTS_URL"
            ) from error
        try:
            self._library = ctypes.CDLL(espeakng_loader.get_library_path())  # type: ignore[no-untyped-call]
        except OSError as error:
            raise ServiceError(f"no text-to-speech: the espeak-ng library cannot be loaded: {error}") from error
        data = str(espeakng_loader.get_data_path()).encode()  # type: ignore[no-untyped-call]
        self.sample_rate_hz: int = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, _BUFFER_MS, data, 0)
        if self.sample_rate_hz <= 0:
            raise ServiceError("no text-to-speech: espeak-ng did not start")
        self._lock = threading.Lock()
        self._settings: tuple[str, int] | None = None
        self._sink: Sink | None = None
        self._failure: Exception | None = None
        self._callback = _Callback(self._on_sound)  # kept: C holds no reference
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: str, rate_wpm: int, sink: Sink) -> None:
        """Synthesise, blocking; the sink is called in this thread. Raises ServiceError, and what the sink raised."""
        data = text.replace("\0", " ").encode(errors="replace") + b"\0"
        with self._lock:
            self._use(voice, rate_wpm)
            self._sink, self._failure = sink, None
            code = self._library.espeak_Synth(
                data, ctypes.c_size_t(len(data)), 0, _POSITION_CHARACTER, 0, _FLAG_UTF8, None, None
            )
            self._sink, failure = None, self._failure
        if failure is not None:
            raise failure
        if code != 0:
            raise ServiceError(f"espeak-ng refused to speak (code {code})")

    def check(self, voice: str, rate_wpm: int) -> None:
        """Raises ServiceError when there is no such voice."""
        with self._lock:
            self._use(voice, rate_wpm)

    def _use(self, voice: str, rate_wpm: int) -> None:
        if self._settings == (voice, rate_wpm):
            return
        self._settings = None
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ServiceError(f"espeak-ng has no voice {voice!r}; en-us and en (British) are among those it has")
        self._library.espeak_SetParameter(_PARAMETER_RATE, rate_wpm, 0)
        self._settings = (voice, rate_wpm)

    def _on_sound(
        self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: "ctypes._Pointer[_Event]"
    ) -> int:
        """Called by the library. An exception must not travel through C: it is kept, and ends the synthesis."""
        try:
            if not samples or self._sink is None:
                return _GO_ON
            words = []
            index = 0
            while (event := events[index]).type != _EVENT_END_OF_LIST:
                if event.type == _EVENT_WORD:
                    words.append(WordEvent(event.text_position - 1, event.audio_position))
                index += 1
            go_on = self._sink(ctypes.string_at(samples, count * 2), words)
        except Exception as error:  # noqa: BLE001 - raised again by speak()
            self._failure = error
            return _ABORT
        return _GO_ON if go_on else _ABORT


_engine: Engine | None = None
_engine_lock = threading.Lock()


def engine() -> Engine:
    """The engine of this process, started on first use (about 50 ms). Raises ServiceError."""
    global _engine
    with _engine_lock:
        if _engine is None:
            _engine = Engine()
        return _engine
