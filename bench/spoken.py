"""The corpus `bench/speech.jsonl`: what the VAD and the recogniser said, and when, while somebody spoke."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

CORPUS = Path(__file__).with_name("speech.jsonl")

STARTED, STOPPED, PARTIAL, FINAL = "speech_started", "speech_stopped", "partial", "final_after_finish_ms"


@dataclass(frozen=True, slots=True)
class Said:
    """One report, at `ms` of the audio: the sound that it rests on had been spoken by then, and the work was done."""

    ms: int
    kind: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Spoken:
    """One utterance. All times are milliseconds from the beginning of its audio."""

    text: str
    voice: str
    source: str
    """espeak, or the file of a human recording."""
    recognizer: str
    noise_rms: int
    audio_ms: int
    speech_ends_ms: int
    pauses: tuple[tuple[int, int], ...]
    """Where it is quiet for 150 ms and more between the first sound and the last: from, to."""
    events: tuple[Said, ...]
    """The last one is the final: its `ms` counts from FinishUtterance, which came at the end of the audio."""

    @property
    def is_human(self) -> bool:
        return self.source != "espeak"

    @property
    def hesitates(self) -> bool:
        """Whether there is a pause that a listener may take for the end."""
        return any(end - begin >= 200 for begin, end in self.pauses)

    @property
    def heard(self) -> tuple[Said, ...]:
        """What was reported while the audio ran."""
        return tuple(said for said in self.events if said.kind != FINAL)

    @property
    def final(self) -> Said:
        return self.events[-1]


def read() -> list[Spoken]:
    return [_parse(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]


def write(corpus: Sequence[Spoken]) -> None:
    CORPUS.write_text("".join(_dump(spoken) + "\n" for spoken in corpus), encoding="utf-8")


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent do not exceed; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else float("nan")


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def _parse(line: str) -> Spoken:
    fields = json.loads(line)
    fields["pauses"] = tuple((begin, end) for begin, end in fields["pauses"])
    fields["events"] = tuple(Said(*said) for said in fields["events"])
    return Spoken(**fields)


def _dump(spoken: Spoken) -> str:
    fields = asdict(spoken)
    fields["events"] = [[e.ms, e.kind, e.text] if e.text else [e.ms, e.kind] for e in spoken.events]
    return json.dumps(fields, separators=(",", ":"))
