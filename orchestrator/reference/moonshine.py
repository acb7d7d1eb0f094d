"""Turns sound into English text with Moonshine tiny-en: the weights of the wheel moonshine-voice, run by onnxruntime.

Imported by the recogniser's own process only. The package itself is not imported: its library takes four times the
processor time and is less accurate (docs/decisions/031). Weights and code are MIT, by Moonshine AI.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

from orchestrator.reference.weights import check, package_folder

SAMPLE_RATE_HZ = 16_000
RELEASE = "moonshine-voice 0.1.0"
_FILES = ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin")
_DIGEST = "00a35218fc26f3da52151de3a072eb49acd626559766d949e449283217ab1216"
_BEGIN, _END = 1, 2
_TOKENS_PER_S = 6.5
"""Limit from Moonshine's own code. Without it, the model may repeat itself for ever where a sentence is cut."""
_LAYERS_SHAPE = (1, 8, 0, 36)
"""An empty cache: batch, heads, tokens, width of a head."""

Sound = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class MoonshineTranscript:
    """The transcript of a piece of sound; `tokens` may be given as the draft of a longer piece of the same sound."""

    text: str
    tokens: tuple[int, ...]
    log_probability: float
    """Mean over the tokens. Speech: -0.7 to 0; noise goes down to -1.4."""


class Moonshine:
    """The model. Takes 0.5 s and 155 MB to load. Raises ServiceError when the files are missing or others."""

    def __init__(self) -> None:
        folder = package_folder("moonshine_voice") / "assets" / "tiny-en"
        check(folder, _FILES, _DIGEST, RELEASE)
        self._encoder = _load(folder / "encoder_model.ort")
        self._decoder = _load(folder / "decoder_model_merged.ort")
        self._vocabulary = read_vocabulary((folder / "tokenizer.bin").read_bytes())
        self._past = [one.name for one in self._decoder.get_inputs() if one.name.startswith("past_key_values")]
        self._outputs = [one.name for one in self._decoder.get_outputs()]

    def transcribe(self, sound: Sound, draft: Sequence[int] = ()) -> MoonshineTranscript:
        """Understand 16 kHz mono sound (-1 to 1) of up to 30 s. The draft saves time as far as it is right."""
        batch = sound[None]
        mask = np.ones(batch.shape, np.int64)
        states = self._encoder.run(None, {"input_values": batch, "attention_mask": mask})[0]
        # The decoder wants the mask of the samples and thins it out itself.
        decoding = _Decoding(self, {"encoder_hidden_states": states, "encoder_attention_mask": mask})
        tokens, scores = decoding.run(draft, limit=max(2, int(len(sound) / SAMPLE_RATE_HZ * _TOKENS_PER_S)))
        return MoonshineTranscript(self._text(tokens), tuple(tokens), float(np.mean(scores)))

    def step(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """One pass of the decoder."""
        return dict(zip(self._outputs, self._decoder.run(None, inputs), strict=True))

    @property
    def cache_names(self) -> Sequence[str]:
        return self._past

    def _text(self, tokens: Sequence[int]) -> str:
        written = b"".join(self._vocabulary[token] for token in tokens)
        return written.decode(errors="ignore").replace("▁", " ").strip()


class _Decoding:
    """Greedy decoding of one piece of sound, with the decoder's cache of keys and values."""

    def __init__(self, model: Moonshine, about_sound: dict[str, Any]) -> None:
        self._model = model
        self._about_sound = about_sound
        self._cache: dict[str, Any] = {}

    def run(self, draft: Sequence[int], limit: int) -> tuple[list[int], list[float]]:
        """Tokens and their log probabilities. Checks the whole draft in one pass, then goes on token by token."""
        draft = draft[:limit]
        best, scores = self._pass([_BEGIN, *draft])
        agreed = 0
        while agreed < len(draft) and best[agreed] == draft[agreed]:
            agreed += 1
        self._keep(agreed + 1)
        tokens, found = list(draft[:agreed]), scores[: agreed + 1]
        following = best[agreed]
        while following != _END and len(tokens) < limit:
            tokens.append(following)
            (following,), (score,) = self._pass([following])
            found.append(score)
        return tokens, found

    def _pass(self, tokens: Sequence[int]) -> tuple[list[int], list[float]]:
        """The likeliest token after each of these, and its log probability."""
        is_first = not self._cache
        cached = self._cache or dict.fromkeys(self._model.cache_names, np.zeros(_LAYERS_SHAPE, np.float32))
        inputs = {"input_ids": np.array([tokens], np.int64), "use_cache_branch": np.array([not is_first])}
        found = self._model.step({**inputs, **self._about_sound, **cached})
        for name in self._model.cache_names:
            # Keys and values of the sound come with the first pass only.
            if is_first or ".encoder." not in name:
                self._cache[name] = found[name.replace("past_key_values", "present")]
        logits = found["logits"][0]
        top = logits.max(-1, keepdims=True)
        scores = -np.log(np.exp(logits - top).sum(-1))
        return logits.argmax(-1).tolist(), scores.tolist()

    def _keep(self, tokens: int) -> None:
        for name, value in self._cache.items():
            if ".encoder." not in name:
                self._cache[name] = value[:, :, :tokens]


def read_vocabulary(data: bytes) -> list[bytes]:
    """The tokens of a tokenizer.bin: each is its length (one byte, or two from 128 on), then its bytes."""
    tokens, at = list[bytes](), 0
    while at < len(data):
        size, at = data[at], at + 1
        if size >= 128:
            size, at = data[at] * 128 + size - 128, at + 1
        tokens.append(data[at : at + size])
        at += size
    return tokens


def _load(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    # One thread: the process serves all microphones of the node, and calls need the other cores.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
