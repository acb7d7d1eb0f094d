"""The frames between the service and the recogniser's process: a fixed header, then sound or text."""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

_HEADER = struct.Struct("<BIII")
_MAX_PAYLOAD_BYTES = 16 * 1024 * 1024


class Kind(IntEnum):
    """What a frame says. READY, PARTIAL, FINAL and FAILED come from the process, all others go to it."""

    CONFIGURE = 0  # JSON: the settings of the recogniser
    START = 1
    SOUND = 2  # s16le mono PCM, 16 kHz
    FINISH = 3
    CANCEL = 4
    CLOSE = 5
    READY = 6  # JSON: what it knows
    PARTIAL = 7  # text
    FINAL = 8  # text
    FAILED = 9  # what went wrong with this utterance, which is closed
    SPEAKING = 10  # the speaker goes on
    SILENT = 11  # the speaker fell silent, perhaps only for a breath


class Frame(NamedTuple):
    """One message. The numbers of the recogniser and of its utterance tell late results from current ones."""

    kind: Kind
    recognizer: int = 0
    utterance: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        return _HEADER.pack(self.kind, self.recognizer, self.utterance, len(self.payload)) + self.payload


class FrameReader:
    """Cuts a byte stream into frames; keeps an unfinished one until the rest arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now. Raises ValueError when the bytes are no frames."""
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _HEADER.size:
            kind, recognizer, utterance, length = _HEADER.unpack_from(self._buffer, at)
            if length > _MAX_PAYLOAD_BYTES:
                raise ValueError(f"a frame of {length} bytes: the stream is out of step")
            end = at + _HEADER.size + length
            if len(self._buffer) < end:
                break
            payload = bytes(self._buffer[at + _HEADER.size : end])
            at = end
            yield Frame(Kind(kind), recognizer, utterance, payload)
        del self._buffer[:at]
