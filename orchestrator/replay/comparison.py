"""Compares two runs of a conversation: which decisions changed, and how long users waited. Makes the JSON report."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from events.envelope import Event
from orchestrator.replay.change import WhatIf
from orchestrator.replay.decisions import changed, decisions, typical_ms, waits_ms
from projections.golden_log import golden

SCHEMA = "orch.what_if/1"
"""Name and version of the JSON format. Fields are added, never renamed or given another meaning."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The events of a recording (`old`) and of its what-if (`new`)."""

    source: str
    old: list[Event]
    new: list[Event]
    results: int = 0
    """Number of results of services and playback in the new run."""
    simulated: int = 0
    """Number of `results` that are simulated, because the recording has no result of their command."""
    moved: int = 0
    """Number of finals that come at another time than in the recording, because the utterance ends at another time."""
    unjudged: int = 0
    """Number of utterances that the new run ends too early, or never ends. Their words in the new run are uncertain,
    because the recording has only finals of whole utterances.
    """

    @classmethod
    def of(cls, source: str, old: list[Event], new: WhatIf) -> "Comparison":
        """Build the comparison of a recording with the result of its what-if."""
        return cls(source, old, new.events, new.results, new.simulated, new.moved, new.unjudged)

    @property
    def decisions(self) -> tuple[Counter[str], Counter[str]]:
        return decisions(self.old), decisions(self.new)

    @property
    def golden(self) -> tuple[list[str], list[str]]:
        """Golden log of the recording, then of the new run."""
        return [*golden(self.old)], [*golden(self.new)]

    def as_json(self) -> dict[str, Any]:
        old, new = self.golden
        return {
            "decisions": {name: [*pair] for name, pair in changed(*self.decisions).items()},
            "moved": self.moved,
            "new": new,
            "old": old,
            "results": self.results,
            "simulated": self.simulated,
            "source": self.source,
            "unjudged": self.unjudged,
            "wait_ms": [typical_ms(waits_ms(self.old)), typical_ms(waits_ms(self.new))],
        }


def as_json(found: Sequence[Comparison]) -> dict[str, Any]:
    """Return the JSON report of a what-if, such as `orch replay --set`, on several recordings."""
    return {"recordings": [one.as_json() for one in found], "schema": SCHEMA}


def changes(found: Sequence[Comparison]) -> dict[str, tuple[int, int]]:
    """Return decision → (count before, count after), summed over all recordings. Equal counts are left out."""
    pairs = [one.decisions for one in found]
    return changed(sum((old for old, _ in pairs), Counter()), sum((new for _, new in pairs), Counter()))


def waits(found: Sequence[Comparison]) -> tuple[str, str]:
    """Return the median time that a user waits for an answer: (in all recordings, in all new runs). Each is a number of
    milliseconds as text, or "none" if there was no answer.
    """
    old = typical_ms([ms for one in found for ms in waits_ms(one.old)])
    new = typical_ms([ms for one in found for ms in waits_ms(one.new)])
    return _or_none(old), _or_none(new)


def _or_none(number: int | None) -> str:
    return "none" if number is None else str(number)
