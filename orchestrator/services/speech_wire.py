"""How synthesised speech travels over HTTP: the encodings of POST /stream, for both ends.

Raw `audio/L16` (16-bit little-endian here, whatever the name says elsewhere) and `audio/wav` are what most services
have; JSON lines also carry when each word is spoken, one chunk a line, and are what the reference service prefers.
"""

import base64
import binascii
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.services.ports import SpeechChunk, SpokenWord

JSON_LINES = "application/x-ndjson"
RAW = "audio/L16"
WAV_TYPES = frozenset({"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"})
RAW_TYPES = frozenset({"audio/l16", "audio/pcm", "application/octet-stream"})
ACCEPT = f"{JSON_LINES}, {RAW};q=0.9, audio/wav;q=0.8"
SAMPLE_RATE_HEADER = "X-Sample-Rate"

CHUNK_MS = 200
MIN_SAMPLE_RATE_HZ = 8_000
MAX_SAMPLE_RATE_HZ = 96_000
_MAX_WAV_HEADER_BYTES = 64 * 1024
_BYTES_PER_SAMPLE = 2


class WireError(ValueError):
    """The bytes are not what their content type says. The message says what is wrong with them."""


class PcmCutter:
    """Cuts a stream of mono s16le PCM into chunks of about 200 ms, the first one as soon as it is there."""

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
        """What is left. Raises WireError when the sound ends in the middle of a sample."""
        if len(self._pending) % _BYTES_PER_SAMPLE:
            raise WireError("an odd number of bytes: 16-bit samples expected")
        if self._pending:
            yield SpeechChunk(bytes(self._pending), self._sample_rate_hz)
            self._pending.clear()


class WavCutter:
    """Cuts a streamed WAV file (PCM, 16 bit, mono) into chunks; lengths in its header are not believed."""

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
        """The first bytes of sound once the header is complete, else nothing."""
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
                # A streaming writer does not know the length and leaves 0 or the largest number there.
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
    """The chunk of a JSON line; keys it does not know are ignored. Raises WireError."""
    try:
        document: Any = json.loads(line)
        if not isinstance(document, Mapping):
            raise WireError("a line that is not a JSON object")
        if "error" in document:
            raise WireError(f"the service gave up: {str(document['error'])[:200]}")
        pcm = base64.b64decode(document["pcm"], validate=True)
        words = tuple(SpokenWord(str(text), int(at_ms)) for text, at_ms in document.get("words", ()))
        sample_rate_hz = int(document["sample_rate_hz"])
    except (KeyError, TypeError, binascii.Error, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WireError(f"an unreadable line of speech ({type(error).__name__}: {error})") from error
    if len(pcm) % _BYTES_PER_SAMPLE or not MIN_SAMPLE_RATE_HZ <= sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
        raise WireError(f"a line of speech with {len(pcm)} bytes at {sample_rate_hz} Hz")
    return SpeechChunk(pcm, sample_rate_hz, words)
