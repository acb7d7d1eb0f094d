"""One utterance on its way through Moonshine: when to decode, how to cut long ones, and which texts are noise.

Pure but for the model. The voice activity of the media layer tells when the speaker falls silent: then the utterance is
decoded at once, so that the final is there before it is asked for.
"""

from typing import Protocol

import numpy as np

from orchestrator.reference.moonshine import SAMPLE_RATE_HZ, MoonshineTranscript, Sound

_BYTES_PER_S = 2 * SAMPLE_RATE_HZ
_TAIL = np.zeros(SAMPLE_RATE_HZ // 2, np.float32)
"""Half a second of silence after the sound: without it the model completes a sentence that is cut."""
_PARTIAL_EVERY_S = 0.5
_PARTIAL_SHARE = 0.04
"""A long piece is decoded less often: at most once per this many seconds for each second of it, times 1 / share."""
_PIECE_S = 15.0
"""A piece this long ends at the next pause; its text is settled."""
_LONGEST_PIECE_S = 28.0
"""A piece this long ends without a pause, at its quietest moment. The model was trained on up to 30 s."""
_QUIETEST_IN_S = 6.0
_WINDOW = SAMPLE_RATE_HZ // 20
_NOISE = frozenset({"", "you"})
"""What the model makes of noise and silence."""
_UNSURE = -1.0
"""Mean log probability below which a text is noise; 59 human clips of speech have -0.7 or more."""


class Model(Protocol):
    """Moonshine, or a stand-in in tests."""

    def transcribe(self, sound: Sound, draft: tuple[int, ...] = ()) -> MoonshineTranscript: ...


class MoonshineUtterance:
    """An open utterance. `feed` and `voice` are cheap; `decode` and `finish` run the model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._settled: list[str] = []
        self._sound = bytearray()
        """The piece that is not settled yet."""
        self._heard = MoonshineTranscript("", (), 0.0)
        self._heard_bytes = 0
        """How much of the piece `_heard` is about."""
        self._is_silent = False
        self._spoken_bytes = 0
        """How much of the piece was there when the speaker fell silent."""
        self._partial = ""

    def feed(self, pcm: bytes) -> None:
        self._sound += pcm

    def voice(self, is_speaking: bool) -> None:
        """Record that the speaker fell silent, or goes on."""
        self._is_silent = not is_speaking
        self._spoken_bytes = len(self._sound)

    @property
    def is_paused(self) -> bool:
        """Whether the speaker fell silent and what they said since the last decoding is not decoded."""
        return self._is_silent and self._heard_bytes < self._spoken_bytes

    @property
    def undecoded_s(self) -> float:
        """Seconds of sound by which a partial is overdue; negative: it is not due."""
        if self._is_silent:
            return -1.0
        wait_s = max(_PARTIAL_EVERY_S, len(self._sound) / _BYTES_PER_S * _PARTIAL_SHARE)
        return (len(self._sound) - self._heard_bytes) / _BYTES_PER_S - wait_s

    def decode(self) -> str | None:
        """Decode the sound so far. Returns the text if it has changed, else None."""
        self._split()
        self._hear(len(self._sound))
        if self._is_silent and len(self._sound) >= _PIECE_S * _BYTES_PER_S:
            self._settle(len(self._sound))
        text = self._text()
        if text == self._partial:
            return None
        self._partial = text
        return text

    def finish(self) -> str:
        """The final text. Takes no time if the speaker fell silent and that was decoded."""
        if not self._is_silent or self.is_paused:
            self._split()
            self._hear(len(self._sound))
        return self._text()

    def _hear(self, size: int) -> None:
        """Decode the first bytes of the piece, with the text before as a draft."""
        samples = np.frombuffer(self._sound[: size & ~1], "<i2").astype(np.float32) / 32_768
        # The last token of a partial changes most.
        draft = self._heard.tokens[:-1]
        self._heard = self._model.transcribe(np.concatenate([samples, _TAIL]), draft)
        self._heard_bytes = size

    def _split(self) -> None:
        """Settle pieces that are too long for the model."""
        while len(self._sound) > _LONGEST_PIECE_S * _BYTES_PER_S:
            at = self._quietest()
            self._hear(at)
            self._settle(at)

    def _settle(self, size: int) -> None:
        self._settled.append(_words(self._heard))
        del self._sound[:size]
        self._heard, self._heard_bytes = MoonshineTranscript("", (), 0.0), 0
        self._spoken_bytes = max(0, self._spoken_bytes - size)

    def _quietest(self) -> int:
        """The position, in bytes, of the quietest moment before the longest piece ends."""
        end = int(_LONGEST_PIECE_S * SAMPLE_RATE_HZ)
        begin = end - int(_QUIETEST_IN_S * SAMPLE_RATE_HZ)
        samples = np.frombuffer(self._sound[2 * begin : 2 * end], "<i2").astype(np.float32)
        windows = samples[: len(samples) // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
        quietest = int((windows**2).mean(1).argmin())
        return 2 * (begin + quietest * _WINDOW + _WINDOW // 2)

    def _text(self) -> str:
        return " ".join(filter(None, (*self._settled, _words(self._heard))))


def _words(heard: MoonshineTranscript) -> str:
    """The text, or "" where it is what the model makes of noise."""
    is_noise = heard.text.lower().strip(" .,?!") in _NOISE or heard.log_probability < _UNSURE
    return "" if is_noise else heard.text
