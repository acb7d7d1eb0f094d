"""Encodes and decodes synthesised speech for POST /stream, and cuts it into chunks of about 200 ms.

Most services offer raw `audio/L16` (16-bit little-endian here, unlike RFC 2586) or `audio/wav`. JSON lines also carry
the time of each word, one chunk a line; the reference service prefers them.
"""

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, SpeechChunk, SpokenWord

JSON_LINES = "application/x-ndjson"
RAW = "audio/L16"
WAV_TYPES = frozenset({"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"})
RAW_TYPES = frozenset({"audio/l16", "audio/pcm", "application/octet-stream"})
ACCEPT = f"{JSON_LINES}, {RAW};q=0.9, audio/wav;q=0.8"
SAMPLE_RATE_HEADER = "X-Sample-Rate"

CHUNK_MS = 200
_MAX_WAV_HEADER_BYTES = 64 * 1024
_BYTES_PER_SAMPLE = 2
_QUOTED = 80
_LATEST_S = 24 * 3600
_STARTS = {"at_ms": 1, "start_ms": 1, "start": 1000, "start_time": 1000, "start_s": 1000}
"""Key of a word's start time → milliseconds per unit of its value."""


class WireError(ValueError):
    """The bytes do not match their content type. The message names the mistake."""

    in_our_words = "the bytes are not what their content type says"
    """Message for masked logs: the full message may quote the service."""


class PcmCutter:
    """Cuts a stream of mono s16le PCM into chunks of about 200 ms and yields each as soon as it is complete."""

    def __init__(self, sample_rate_hz: int) -> None:
        if not MIN_SAMPLE_RATE_HZ <= sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
            raise WireError(
                f"a sample rate of {sample_rate_hz} Hz (expected {MIN_SAMPLE_RATE_HZ}-{MAX_SAMPLE_RATE_HZ})"
            )
        self._sample_rate_hz = sample_rate_hz
        self._chunk_bytes = sample_rate_hz * CHUNK_MS // 1000 * _BYTES_PER_SAMPLE
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[SpeechChunk]:
        self._pending += data
        while len(self._pending) >= self._chunk_bytes:
            yield SpeechChunk(bytes(self._pending[: self._chunk_bytes]), self._sample_rate_hz)
            del self._pending[: self._chunk_bytes]

    def end(self) -> Iterator[SpeechChunk]:
        """The last, shorter chunk. Raises WireError when the sound ends in the middle of a sample."""
        if len(self._pending) % _BYTES_PER_SAMPLE:
            raise WireError("an odd number of bytes: 16-bit samples expected")
        if self._pending:
            yield SpeechChunk(bytes(self._pending), self._sample_rate_hz)
            self._pending.clear()


class WavCutter:
    """Cuts a streamed WAV file (PCM, 16 bit, mono) into chunks. A data length of 0 or above 2 GiB counts as unknown."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._cutter: PcmCutter | None = None
        self._left: int | None = None

    def feed(self, data: bytes) -> Iterator[SpeechChunk]:
        if self._cutter is None:
            self._header += data
            data = self._parse_header()
        if self._cutter is not None and data:
            if self._left is not None:
                data = data[: self._left]
                self._left -= len(data)
            yield from self._cutter.feed(data)

    def end(self) -> Iterator[SpeechChunk]:
        if self._cutter is None:
            raise WireError("a WAV file without a data chunk")
        yield from self._cutter.end()

    def _parse_header(self) -> bytes:
        """Parse the header. Returns the first bytes of sound once the header is complete, else empty bytes."""
        head = bytes(self._header)
        if len(head) < 12:
            return b""
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            raise WireError("not a WAV file (no RIFF header)")
        at, sample_rate_hz = 12, 0
        while len(head) >= at + 8:
            name, length = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
            body = at + 8
            if name == b"data":
                self._cutter = PcmCutter(sample_rate_hz)
                # A streaming writer does not know the length and writes 0 or the largest number.
                self._left = None if length in (0, 0xFFFFFFFF) or length > 0x7FFFFF00 else length
                return head[body:]
            if name == b"fmt ":
                if len(head) < body + 16:
                    return b""
                sample_rate_hz = _wav_sample_rate_hz(head[body : body + 16])
            at = body + length + length % 2
        if len(head) > _MAX_WAV_HEADER_BYTES:
            raise WireError("a WAV header of more than 64 KiB")
        return b""


def _wav_sample_rate_hz(fmt: bytes) -> int:
    encoding, channels, sample_rate_hz, _, _, bits = struct.unpack("<HHIIHH", fmt)
    if encoding not in (1, 0xFFFE) or channels != 1 or bits != 16:
        raise WireError(f"WAV of {bits} bits and {channels} channels (expected PCM, 16 bits, mono)")
    return int(sample_rate_hz)


def encode_line(chunk: SpeechChunk) -> bytes:
    """A chunk as one JSON line: pcm (base64), sample_rate_hz, words ([[text, at_ms], ...])."""
    line = {
        "pcm": base64.b64encode(chunk.pcm).decode(),
        "sample_rate_hz": chunk.sample_rate_hz,
        "words": [[word.text, word.at_ms] for word in chunk.words],
    }
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def decode_line(line: bytes) -> SpeechChunk:
    """The chunk of a JSON line. Ignores unknown keys. Raises WireError."""
    try:
        document: Any = json.loads(line, parse_constant=_refuse_constant)
    except RecursionError:
        raise _unreadable("it is nested too deeply") from None
    except ValueError as error:
        raise error if isinstance(error, WireError) else _unreadable(f"it is not JSON: {error}") from None
    if not isinstance(document, Mapping):
        raise _unreadable("it is no JSON object")
    if document.get("error") is not None:
        raise WireError(f"the service gave up: {str(document['error'])[:200] or 'it does not say why'}")
    sample_rate_hz = document.get("sample_rate_hz")
    if isinstance(sample_rate_hz, float) and sample_rate_hz.is_integer():
        sample_rate_hz = int(sample_rate_hz)
    try:
        words = tuple(_word(entry) for entry in document.get("words") or ())
        return SpeechChunk(_pcm(document.get("pcm")), sample_rate_hz, words)  # type: ignore[arg-type] # it checks
    except TypeError:
        raise _unreadable(f"its words are {_quote(document['words'])}; expected a list") from None
    except ServiceError as error:
        raise _unreadable(f"{error}") from None


def _unreadable(what: str) -> WireError:
    return WireError(f"an unreadable line of speech: {what}")


def _refuse_constant(constant: str) -> float:
    raise _unreadable(f"it has the number {constant}, which JSON does not have")


def _pcm(value: Any) -> bytes:
    try:
        pcm = base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        raise _unreadable(f"its pcm is {_quote(value)}; expected base64") from None
    if len(pcm) % _BYTES_PER_SAMPLE:
        raise _unreadable(f"it has {len(pcm)} bytes of pcm; expected two for each sample")
    return pcm


def _word(entry: Any) -> SpokenWord:
    """`["Hi!", 694]` in whole milliseconds, with or without its end, or `{"word": "Hi!", "start": 0.694}` in seconds.

    A pair with a fraction is refused: it could mean seconds or milliseconds.
    """
    match entry:
        case [str() as text, int() as at_ms, *_] if not isinstance(at_ms, bool):
            return SpokenWord(text, at_ms)
        case {"word": str() as text} | {"text": str() as text}:
            return SpokenWord(text, _start_ms(entry))
    raise _unreadable(
        f'it has the word {_quote(entry)}; expected ["Hi!", 694] in whole milliseconds, or '
        '{"word": "Hi!", "start": 0.694} in seconds'
    )


def _start_ms(entry: Mapping[str, Any]) -> int:
    for key, in_ms in _STARTS.items():
        value = entry.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LATEST_S * 1000:
            return round(value * in_ms)
    raise _unreadable(f"it has the word {_quote(entry)}; expected a number in one of {', '.join(_STARTS)}")


def _quote(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"
