"""Speech encoded before is not encoded again, and nobody hears where known speech goes over into new speech."""

import math
from array import array

import pytest

from orchestrator.media import opus
from orchestrator.media.opus import FRAME_SAMPLES, VoiceDecoder, VoiceEncoder
from orchestrator.media.resampling import SPEECH_RATE_HZ, ToOpusFrames, frame_pcm
from tests.media.speech import speak

LEAST_DB = 6.0
"""Between two encodings of the same speech: about what one of them has over its own coding noise at its worst."""
SPLICED_FRAMES = 10


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VoiceEncoder, "_known", type(VoiceEncoder._known)())


def frames_of(text: str) -> list[bytes]:
    cutting = ToOpusFrames()
    return [*cutting.feed(speak(text), SPEECH_RATE_HZ), *cutting.flush()]


def encoded(frames: list[bytes]) -> list[bytes]:
    encoder = VoiceEncoder()
    return [encoder.encode(frame) for frame in frames]


def decoded(packets: list[bytes]) -> "list[array[int]]":
    decoder = VoiceDecoder()
    return [
        array("h", frame_pcm(frame))
        for number, packet in enumerate(packets)
        for frame in decoder.decode(packet, number * FRAME_SAMPLES)
    ]


def test_known_speech_is_sent_again_without_the_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = frames_of("we are open from eight")
    first = encoded(frames)
    monkeypatch.setattr(VoiceEncoder, "_encode", None)
    assert encoded(frames) == first


def test_the_same_sound_after_another_one_is_another_stream() -> None:
    """A packet fits only what was encoded before it."""
    frames = frames_of("yes")
    encoded(frames)
    before = len(VoiceEncoder._known)
    encoded([frames[10], *frames])
    assert len(VoiceEncoder._known) == before + len(frames) + 1


@pytest.mark.parametrize("at", [25, 50, 75])
def test_new_speech_after_known_speech_sounds_as_if_encoded_in_one_go(at: int) -> None:
    one = frames_of("we are open every day from eight in the morning until six in the evening")
    other = frames_of("yes of course there is a garden behind the house and dogs are welcome there")
    spliced = one[:at] + other[at : at + SPLICED_FRAMES]
    whole = decoded(encoded(spliced))
    VoiceEncoder._known.clear()
    encoded(one)
    heard = decoded(encoded(spliced))
    assert heard[:at] == whole[:at]
    sound = sum(a * a for frame in whole[at:] for a in frame)
    difference = sum(
        (a - b) ** 2 for x, y in zip(whole[at:], heard[at:], strict=True) for a, b in zip(x, y, strict=True)
    )
    assert 10 * math.log10(sound / difference) > LEAST_DB


def test_only_the_latest_packets_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opus, "_MOST_KNOWN", 20)
    frames = frames_of("we are open from eight")
    encoded(frames[:10])
    encoded(frames[20:35])
    encoded(frames[:10])
    assert len(VoiceEncoder._known) == 20
