"""Measures endpointing policies: the share of utterances that each cuts, and the delay that it adds.

Run: `uv run python bench/endpointing.py`. Runs each policy over the reports of VAD and recogniser in
`bench/speech.jsonl` (see `record_speech.py`). Takes milliseconds, with the same figures on every machine.

`cut`: the policy finishes the utterance before the speaker does; a share of the utterances with a pause of 200 ms or
more, so it depends on the pauses: here up to 1400 ms, half of them above 550 ms. The delay goes from the true end of
speech to the next endpoint, over all utterances; speech-to-text adds a few milliseconds. Compare the mean: for a policy
with two delays, the median shows only one of them. A star marks a policy for which no other is better in both, cuts and
mean.

A to B: the wait follows the pauses of each caller (all utterances of a voice, in turn), within these bounds.
phrases: all phrases that the reference content expects. closed: those that no longer phrase starts with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.spoken import PARTIAL, STARTED, STOPPED, Spoken, median, percentile, read
from orchestrator.reference.content import load_content
from orchestrator.session.endpointing import due_at_us
from orchestrator.session.pauses import after_pause, after_utterance
from orchestrator.session.phrases import normal
from orchestrator.session.policy import Endpointing, Policy
from orchestrator.session.state import State

FIXED_MS = (0, 100, 250, 400, 500, 600, 700, 800, 1_000)
STABLE_MS = (400, 600, 800)
ADAPTIVE_MS = ((0, 500), (250, 500), (250, 800), (250, 1_000))
"""Delays for an utterance that looks complete, and otherwise."""
CALLER_MS = ((250, 1_000), (300, 800), (300, 1_000), (350, 1_000), (400, 1_000))
"""Bounds of the delay for an utterance that does not look complete; in between, it follows the caller's pauses."""


@dataclass(frozen=True, slots=True)
class Row:
    """Result of one policy over the corpus."""

    name: str
    cut_percent: float
    human_cut_percent: float
    mean_ms: float
    median_ms: float
    p90_ms: float

    def is_bettered_by(self, other: "Row") -> bool:
        mine, theirs = (self.cut_percent, self.mean_ms), (other.cut_percent, other.mean_ms)
        return mine != theirs and all(b <= a for a, b in zip(mine, theirs, strict=True))


def due_ms(policy: Policy, stopped_ms: int, partial: str, partial_ms: int, pause_ms: int) -> int:
    """When the utterance counts as complete after SPEECH_STOPPED, in milliseconds of audio."""
    heard = State(
        policy=policy,
        partial_text=partial,
        partial_at_us=partial_ms * 1000,
        speech_stopped_at_us=stopped_ms * 1000,
        pause_ms=pause_ms,
    )
    return due_at_us(heard) // 1000


def endpoints_ms(policy: Policy, spoken: Spoken, pauses_ms: dict[str, int]) -> list[int]:
    """Endpoints of this utterance under a policy; several if the speaker continues after a cut.

    `pauses_ms`: voice → its pauses in earlier utterances, as the reducer estimates them; updated.
    """
    found: list[int] = []
    pause_ms = pauses_ms.get(spoken.voice, 0)
    due: int | None = None
    stopped_ms, partial, partial_ms = 0, "", 0
    for said in spoken.heard:
        if due is not None and due <= said.ms:
            found.append(due)
            due = None
        if said.kind == STARTED:
            pause_ms = after_pause(pause_ms, said.ms - stopped_ms) if stopped_ms else pause_ms
            due = None
        elif said.kind == STOPPED:
            stopped_ms = said.ms
            due = due_ms(policy, stopped_ms, partial, partial_ms, pause_ms)
        elif said.kind == PARTIAL:
            partial, partial_ms = said.text, said.ms
            if due is not None:
                due = max(said.ms, due_ms(policy, stopped_ms, partial, partial_ms, pause_ms))
    pauses_ms[spoken.voice] = after_utterance(pause_ms)
    return found if due is None else [*found, due]


def row(name: str, corpus: Sequence[Spoken], **fields: Any) -> Row:
    policy = Policy(endpointing=Endpointing(**({"longest_ms": 0} | fields)))
    pauses_ms: dict[str, int] = {}
    ends = {spoken: endpoints_ms(policy, spoken, pauses_ms) for spoken in corpus}
    cut = {spoken for spoken, found in ends.items() if found[0] < spoken.speech_ends_ms}

    def share(of: Sequence[Spoken]) -> float:
        return 100 * sum(spoken in cut for spoken in of) / len(of) if of else float("nan")

    delays = [found[-1] - spoken.speech_ends_ms for spoken, found in ends.items()]
    return Row(
        name,
        share([spoken for spoken in corpus if spoken.hesitates and not spoken.is_human]),
        share([spoken for spoken in corpus if spoken.hesitates and spoken.is_human]),
        sum(delays) / len(delays),
        median(delays),
        percentile(delays, 90),
    )


def rows(corpus: Sequence[Spoken]) -> list[Row]:
    heard = {normal(said.text) for spoken in corpus for said in spoken.heard if said.kind == PARTIAL}
    known = [phrase for phrase in map(normal, load_content().phrases()) if any(text.endswith(phrase) for text in heard)]
    closed = [phrase for phrase in known if not any(longer.startswith(f"{phrase} ") for longer in known)]
    found = [row(f"fixed {ms}", corpus, complete_ms=ms, incomplete_ms=ms) for ms in FIXED_MS]
    for complete_ms, incomplete_ms in ADAPTIVE_MS:
        both: dict[str, Any] = {"complete_ms": complete_ms, "incomplete_ms": incomplete_ms}
        name = f"{complete_ms} / {incomplete_ms}"
        found += [
            row(f"{name}, stable {ms}", corpus, stable_ms=ms, **both) for ms in STABLE_MS if ms < incomplete_ms + 200
        ]
        found.append(row(f"{name}, phrases", corpus, phrases=known, **both))
        found.append(row(f"{name}, closed", corpus, phrases=closed, **both))
    for incomplete_ms, longest_ms in CALLER_MS:
        bounds: dict[str, Any] = {"complete_ms": 250, "incomplete_ms": incomplete_ms, "longest_ms": longest_ms}
        found.append(row(f"250 / {incomplete_ms} to {longest_ms}, closed", corpus, phrases=closed, **bounds))
    return sorted(found, key=lambda row: (row.cut_percent, row.mean_ms))


def main() -> None:
    corpus = read()
    hesitating = [spoken for spoken in corpus if spoken.hesitates]
    humans = sum(spoken.is_human for spoken in hesitating)
    print(f"{len(corpus)} utterances; {len(hesitating)} pause, {humans} of them human")
    print(f"{'complete / incomplete':28}{'cut':>9}{'human':>9}{'mean':>10}{'median':>9}{'p90':>9}")
    found = rows(corpus)
    for one in found:
        star = " " if any(one.is_bettered_by(other) for other in found) else "*"
        print(
            f"{star} {one.name:26}{one.cut_percent:7.0f} %{one.human_cut_percent:7.0f} %"
            f"{one.mean_ms:7.0f} ms{one.median_ms:6.0f} ms{one.p90_ms:6.0f} ms"
        )


if __name__ == "__main__":
    main()
