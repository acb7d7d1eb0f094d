"""Reads and writes the corpus `bench/speech.jsonl`: timed reports of VAD and recogniser for recorded utterances."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

CORPUS = Path(__file__).with_name("speech.jsonl")

STARTED, STOPPED, PARTIAL, FINAL = "speech_started", "speech_stopped", "partial", "final_after_finish_ms"


@dataclass(frozen=True, slots=True)
class Report:
    """One report of VAD or recogniser. `ms`: position in the audio when it came, processing time included."""

    ms: int
    kind: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Spoken:
    """One utterance. All times are milliseconds from the start of its audio."""

    text: str
    voice: str
    source: str
    """espeak, or the file of a human recording."""
    recognizer: str
    noise_rms: int
    audio_ms: int
    speech_ends_ms: int
    pauses: tuple[tuple[int, int], ...]
    """Silences of 150 ms and more between the first and the last sound: (from, to)."""
    events: tuple[Report, ...]
    """Reports in order. The last is the final; its `ms` counts from FinishUtterance, at the end of the audio."""

    @property
    def is_human(self) -> bool:
        return self.source != "espeak"

    @property
    def hesitates(self) -> bool:
        """Whether it has a pause of 200 ms or more, which may pass for the end."""
        return any(end - begin >= 200 for begin, end in self.pauses)

    @property
    def heard(self) -> tuple[Report, ...]:
        """Reports before the final."""
        return tuple(said for said in self.events if said.kind != FINAL)

    @property
    def final(self) -> Report:
        return self.events[-1]


def read() -> list[Spoken]:
    return [_parse(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]


def write(corpus: Sequence[Spoken]) -> None:
    CORPUS.write_text("".join(_dump(spoken) + "\n" for spoken in corpus), encoding="utf-8")


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile of some values; NaN for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else float("nan")


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def _parse(line: str) -> Spoken:
    fields = json.loads(line)
    fields["pauses"] = tuple((begin, end) for begin, end in fields["pauses"])
    fields["events"] = tuple(Report(*said) for said in fields["events"])
    return Spoken(**fields)


def _dump(spoken: Spoken) -> str:
    fields = asdict(spoken)
    fields["events"] = [[e.ms, e.kind, e.text] if e.text else [e.ms, e.kind] for e in spoken.events]
    return json.dumps(fields, separators=(",", ":"))
