"""The natural voice: hibari-tts, English, with the time of each word. Imported only where it speaks (extra `demo`).

Its author is new, so nothing of the package is imported before its files are found to be those of the tested release
(docs/decisions/032). It has no network access here: the voice "heart" lies in the package.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from orchestrator.reference.weights import check, code_and_assets, package_folder

SAMPLE_RATE_HZ = 24_000
RELEASE = "hibari-tts 0.2.1"
_DIGEST = "69d258208e58548b9ff1c1da137f9a7fcb0039098af1cf09c864ebf0cc6fa4d0"
_SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000
_DURATIONS = "/Cast_32_output_0"
"""The inner tensor of the model that has the duration of each phoneme, in frames."""
_FRAME_MS = 25
_LEAD_MS = 60
"""Silence kept before a sentence; the model makes 300 ms of it."""
_GAIN = 1.8
"""The model is quiet: -27 dBFS."""
_LONGEST_CHARACTERS = 220
"""The cost of a sentence grows with the square of its length, and nothing is heard before it is done."""
_CLAUSE_END = re.compile(r"[,;:](?=\s)")
"""Not in a number or a time of day, such as 1,200 or 7:30."""


class SpokenSentence(NamedTuple):
    """A sentence as 16-bit PCM at 24 kHz, and its words with their start in milliseconds."""

    pcm: bytes
    words: tuple[tuple[str, int], ...]


class HibariVoice:
    """The voice. Takes 0.4 s to load. Not thread-safe. Raises ServiceError when the package is missing or altered."""

    def __init__(self) -> None:
        folder = package_folder("hibari")
        check(folder, code_and_assets(folder), _DIGEST, RELEASE)
        from hibari import Hibari  # type: ignore[import-untyped]

        model = (folder / "assets" / "hibari.onnx").read_bytes()
        self._hibari = Hibari(model=_with_output(model, _DURATIONS))
        self._outputs = [one.name for one in self._hibari.sess.get_outputs()]

    @cached_property
    def _normalize(self) -> Any:
        from hibari.g2p.normalize import normalize  # type: ignore[import-untyped]

        return normalize

    def sentences(self, text: str) -> Iterator[str]:
        """The sentences of a text, long ones in pieces."""
        for sentence in self._hibari.split_sentences(text):
            yield from _pieces(sentence)

    def say(self, sentence: str) -> SpokenSentence:
        """Synthesise a sentence; about 20 ms of processor time for each second of speech. The same text sounds the same
        every time. No sound for a text without anything to pronounce.
        """
        from hibari import dsp

        phonemes, spoken = self._phonemes(sentence)
        ids, at = self._ids(phonemes)
        if not spoken or len(ids) < 3:
            return SpokenSentence(b"", ())
        inputs = {"ids": np.array([ids], np.int64), "speed": np.ones(1, np.float32)}
        found = dict(zip(self._outputs, self._hibari.sess.run(None, inputs), strict=True))
        ends = np.cumsum(found.pop(_DURATIONS).reshape(-1)) * _FRAME_MS
        starts = [0, *ends.tolist()]
        times = [(word, int(starts[at[min(first, len(at) - 1)]])) for word, first in spoken]
        sound = dsp.synth(*(part[0] for part in found.values()), np.random.default_rng(0))
        silent_ms = max(0, times[0][1] - _LEAD_MS)
        pcm = (np.clip(sound[silent_ms * _SAMPLES_PER_MS :] * _GAIN, -1, 1) * 32_767).astype("<i2").tobytes()
        written = _as_written(sentence.split(), [word for word, _ in times])
        return SpokenSentence(pcm, tuple((word, max(0, times[number][1] - silent_ms)) for word, number in written))

    def _phonemes(self, sentence: str) -> tuple[str, list[tuple[str, int]]]:
        """The phonemes of a sentence, and its words with the position of their first phoneme."""
        g2p = self._hibari.g2p
        phonemes, spoken = "", list[tuple[str, int]]()
        for token in g2p.phonemize_tokens(g2p.tokenize(self._normalize(sentence))):
            if token.phonemes and re.search(r"\w", token.text):
                spoken.append((token.text, len(phonemes)))
            phonemes += (token.phonemes or "") + (" " if token.whitespace else "")
        return phonemes.rstrip(), spoken

    def _ids(self, phonemes: str) -> tuple[list[int], list[int]]:
        """The model's input, and for each phoneme its place there. The model does not know every character."""
        ids, at = [0], list[int]()
        for phoneme in phonemes:
            at.append(len(ids))
            if phoneme in self._hibari.vocab:
                ids.append(self._hibari.vocab[phoneme])
        return [*ids, 0], at


def _with_output(model: bytes, tensor: str) -> bytes:
    """An ONNX file that also returns an inner tensor.

    Protobuf merges messages that are appended to each other: ModelProto.graph (7) with GraphProto.output (12) with
    ValueInfoProto.name (1). So the package onnx is not needed.
    """
    name = tensor.encode()
    value = b"\x0a" + bytes([len(name)]) + name
    graph = b"\x62" + bytes([len(value)]) + value
    return model + b"\x3a" + bytes([len(graph)]) + graph


def _pieces(sentence: str) -> Iterator[str]:
    while len(sentence) > _LONGEST_CHARACTERS:
        head = sentence[: _LONGEST_CHARACTERS + 1]  # a blank after the longest piece ends a clause or a word
        at = max((end.end() for end in _CLAUSE_END.finditer(head)), default=0)
        if at < _LONGEST_CHARACTERS // 3:
            at = head.rfind(" ") + 1 or _LONGEST_CHARACTERS
        yield sentence[:at].rstrip()
        sentence = sentence[at:].lstrip()
    if sentence:
        yield sentence


def _as_written(words: Sequence[str], spoken: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each word as it is written, and the number of the spoken word it begins with ("7:30" is two when spoken)."""
    match = difflib.SequenceMatcher(
        None, [_key(word) for word in words], [_key(word) for word in spoken], autojunk=False
    )
    for _, first, last, begin, end in match.get_opcodes():
        for number in range(first, last):
            share = (number - first) * max(1, end - begin) // (last - first)
            yield words[number], min(begin + share, len(spoken) - 1)


def _key(word: str) -> str:
    return re.sub(r"\W", "", word.lower())
