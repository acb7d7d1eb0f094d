"""Decodes speech in the recogniser's process: a pool of pocketsphinx decoders tuned for a small domain.

Imported by that process only: pocketsphinx holds the GIL while it decodes. The settings were measured (see
docs/services.md); the level of the sound and the speaker's cepstral mean ("CMN") matter most.
"""

import random
import tempfile
from array import array
from dataclasses import dataclass, field
from operator import add
from pathlib import Path
from typing import Any, Literal

import pocketsphinx

from orchestrator.reference.phrases import (
    Domain,
    acoustic_model,
    arpa,
    full_dictionary,
    general_language_model,
    grammar,
    hesitating,
)

Mode = Literal["domain", "phrases", "general"]

SAMPLE_RATE_HZ = 16_000
_PARTIAL_EVERY_BYTES = 4 * 32 * SAMPLE_RATE_HZ * 2 // 1000  # four of the VAD's chunks of 32 ms

# No second passes: they cost 50 to 140 ms after the end of speech and changed little (measured).
_FAST = {"fwdflat": False, "bestpath": False, "loglevel": "FATAL"}
_DOMAIN = {"lw": 10.0}
# "ds": 2 scores every second frame and halves the cost. Not for grammars: a short "hello" becomes "thank you" there.
_GENERAL = {"ds": 2, "maxhmmpf": 3000, "pl_window": 5}
_UNSEEN_ORDER_SHARE = 0.1

# The acoustic model was not trained on very loud sound, nor on pauses of digital silence: a short "hello" becomes
# "oh". So loud sound is turned down, and a little noise is added to all sound.
_TARGET_PEAK = 4_000
_NOISE_RMS = 30
_NOISE_SAMPLES = SAMPLE_RATE_HZ


class Conditioner:
    """Brings one speaker's sound to the level of the acoustic model's training data."""

    def __init__(self) -> None:
        # A fixed seed, so that the same recording gives the same words.
        source = random.Random(0)
        self._noise = array("h", (round(source.gauss(0, _NOISE_RMS)) for _ in range(_NOISE_SAMPLES)))
        self._at = 0
        self._peak = _TARGET_PEAK

    def condition(self, pcm: bytes) -> bytes:
        """The sound limited to the target peak, with added noise. Drops a last odd byte."""
        samples = array("h", pcm[: len(pcm) & ~1])
        if not samples:
            return b""
        self._peak = max(self._peak, max(samples), -min(samples))
        if self._peak > _TARGET_PEAK:
            factor = _TARGET_PEAK * 65536 // self._peak
            samples = array("h", [sample * factor >> 16 for sample in samples])
        return b"".join(
            self._with_noise(samples[at : at + _NOISE_SAMPLES]) for at in range(0, len(samples), _NOISE_SAMPLES)
        )

    def _with_noise(self, samples: "array[int]") -> bytes:
        if self._at + len(samples) > _NOISE_SAMPLES:
            self._at = 0
        noise = self._noise[self._at : self._at + len(samples)]
        self._at += len(samples)
        return array("h", map(add, samples, noise)).tobytes()


@dataclass(slots=True)
class SphinxSpeaker:
    """State kept between the utterances of one recogniser."""

    conditioner: Conditioner = field(default_factory=Conditioner)
    cepstral_mean: str = ""


class SphinxUtterance:
    """One utterance of one speaker on one leased decoder."""

    def __init__(self, number: int, speaker: SphinxSpeaker, decoder: Any) -> None:
        self.number = number
        self.decoder = decoder
        self._speaker = speaker
        self._unseen_bytes = 0
        self._partial = ""
        decoder.start_utt()

    def feed(self, pcm: bytes) -> str | None:
        """Decode a piece of sound. Returns the partial text about every 128 ms if it has changed, else None."""
        if sound := self._speaker.conditioner.condition(pcm):
            self.decoder.process_raw(sound, False, False)
        self._unseen_bytes += len(pcm)
        if self._unseen_bytes < _PARTIAL_EVERY_BYTES:
            return None
        self._unseen_bytes = 0
        text = self._text()
        if text == self._partial:
            return None
        self._partial = text
        return text

    def finish(self) -> str:
        """End the utterance and return its final text."""
        self.decoder.end_utt()
        text = self._text()
        if text:
            self._speaker.cepstral_mean = self.decoder.get_cmn(True)
        return text

    def cancel(self) -> None:
        self.decoder.end_utt()

    def _text(self) -> str:
        hypothesis = self.decoder.hyp()
        return str(hypothesis.hypstr) if hypothesis else ""


class DecoderPool:
    """A pool of decoders, one utterance each. Builds `ready` of them ahead (at least 1), up to `limit` on demand."""

    def __init__(self, mode: Mode, domain: Domain, ready: int, limit: int) -> None:
        self._mode: Mode = mode
        self._domain = domain
        self._limit = limit
        self._built = 0
        self._idle = [self._build() for _ in range(ready)]
        self._first_mean = str(self._idle[0].get_cmn(False))

    def open(self, number: int, speaker: SphinxSpeaker) -> SphinxUtterance | None:
        """Start an utterance; None when `limit` utterances are open."""
        if not self._idle and self._built >= self._limit:
            return None
        decoder = self._idle.pop() if self._idle else self._build()
        # The decoder may have served another speaker: reset its cepstral mean to this speaker's.
        decoder.set_cmn(speaker.cepstral_mean or self._first_mean)
        return SphinxUtterance(number, speaker, decoder)

    def give_back(self, utterance: SphinxUtterance) -> None:
        self._idle.append(utterance.decoder)

    def _build(self) -> Any:
        self._built += 1
        settings: dict[str, Any] = {**_FAST, "hmm": acoustic_model()}
        if self._mode == "general":
            return _decoder(**settings, **_GENERAL, lm=general_language_model(), dict=full_dictionary())
        # pocketsphinx takes files only, and reads them only while the decoder is built.
        with tempfile.TemporaryDirectory(prefix="orch-stt-") as folder:
            dictionary, language = Path(folder, "words.dict"), Path(folder, "language")
            dictionary.write_text("\n".join(self._domain.pronunciations) + "\n", encoding="utf-8")
            settings["dict"] = str(dictionary)
            if self._mode == "phrases":
                language.write_text(grammar(self._domain.sentences), encoding="utf-8")
                return _decoder(**settings, jsgf=str(language))
            language.write_text(arpa(hesitating(self._domain), _UNSEEN_ORDER_SHARE), encoding="utf-8")
            return _decoder(**settings, **_DOMAIN, lm=str(language))


def _decoder(**settings: Any) -> Any:
    # The extension module is untyped: only this function uses it.
    return vars(pocketsphinx)["Decoder"](**settings)
