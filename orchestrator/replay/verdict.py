"""The verdict on one recording: outcome, counts, divergences. It is small: worker processes can return it."""

from dataclasses import dataclass, field
from typing import Literal

from orchestrator.replay.divergence import Divergence
from orchestrator.replay.invariants import Broken
from orchestrator.replay.replay import Replay

Outcome = Literal["equal", "completed", "diverged", "broken", "unreadable", "interrupted"]
EXIT_CODES: dict[Outcome, int] = {
    "equal": 0,
    "completed": 0,
    "diverged": 1,
    "unreadable": 2,
    "broken": 4,
    "interrupted": 130,
}
_WORST_LAST = (0, 4, 1, 2, 130)


@dataclass(frozen=True, slots=True)
class SegmentVerdict:
    """Verdict on a segment of a session's log. `is_equal`: the segment replays without a divergence."""

    session_id: str
    recorded_by: str
    first_version: int
    last_version: int
    is_equal: bool


@dataclass(slots=True)
class Verdict:
    """Result of the replay of one recording."""

    source: str
    outcome: Outcome
    error: str = ""
    events: int = 0
    commands: int = 0
    sessions: int = 0
    state: str = ""
    """Final phase and state hash, if the recording holds one session."""
    parts: list[SegmentVerdict] = field(default_factory=list)
    """Verdicts on the segments of each session that has more than one segment."""
    diverged_sessions: int = 0
    divergences: list[Divergence] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    next_commands: list[str] = field(default_factory=list)
    """If the log is incomplete: the outstanding commands of sessions that have not ended."""
    elapsed_s: float = 0.0

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]


def worst(verdicts: list[Verdict]) -> int:
    """Return the exit code of the worst verdict."""
    return max((verdict.exit_code for verdict in verdicts), key=_WORST_LAST.index, default=0)


def verdict_of(found: Replay, broken: list[Broken], *, is_interrupted: bool = False) -> Verdict:
    """Return the verdict on a replay. `broken`: violated invariants. `is_interrupted`: Ctrl-C ended the replay. Of
    several outcomes, the first of these counts: interrupted, diverged, broken, equal or completed.
    """
    sessions = [*found.sessions.values()]
    outcome: Outcome = "equal" if found.header.derived else "completed"
    if is_interrupted:
        outcome = "interrupted"
    elif found.divergences:
        outcome = "diverged"
    elif broken:
        outcome = "broken"
    return Verdict(
        source=found.name,
        outcome=outcome,
        events=found.size,
        commands=found.commands,
        sessions=len(sessions),
        state=f"{sessions[0].state.phase} {sessions[0].state.hash()}" if len(sessions) == 1 else "",
        parts=[
            SegmentVerdict(
                s.session_id, p.recorded_by, p.first_version, p.last_version or s.state.version, p.divergence is None
            )
            for s in sessions
            if len(s.segments) > 1
            for p in s.segments
        ],
        diverged_sessions=sum(any(part.divergence for part in session.segments) for session in sessions),
        divergences=found.divergences,
        broken=broken,
    )
