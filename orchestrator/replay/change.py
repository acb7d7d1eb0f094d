"""The change of policy or inputs that a what-if tries on recorded conversations, and the result of the run."""

from dataclasses import dataclass, field
from typing import Any

from events.envelope import Event, Input
from orchestrator.session.policy import Policy

PRODUCER = "what-if"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of policy or inputs to try on a recording."""

    policy: Policy | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Policy part → field → value. Overrides the fields of `policy` or, without one, of the recorded policy."""
    without: frozenset[str] = frozenset()
    """Event ids of inputs to leave out."""
    insert: tuple[Input, ...] = ()

    def apply(self, recorded: Policy) -> Policy:
        """The policy of a session after the change. Raises pydantic's ValidationError."""
        base = (self.policy or recorded).recorded()
        return Policy.model_validate(
            {p: fields | self.settings.get(p, {}) for p, fields in base.items()}
            | {p: v for p, v in self.settings.items() if p not in base}
        )


@dataclass(slots=True)
class WhatIf:
    """Result of a what-if: the events of the new run, and counts of its results."""

    events: list[Event] = field(default_factory=list)
    results: int = 0
    simulated: int = 0
    """How many of the results are simulated."""
    moved: int = 0
    """Finals of speech-to-text that come at another time than recorded."""
    unjudged: int = 0
    """Utterances that the new run cuts or never completes: their words are guessed."""
