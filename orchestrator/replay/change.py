"""Data of a what-if: the change that it tries (new policy, inputs left out or inserted), and the result of the new run.

cli/what_if.py parses options into a Change. what_if.py takes a recording and a Change; world.py runs each session.
"""

from dataclasses import dataclass, field
from typing import Any

from events.envelope import Event, Input
from orchestrator.session.policy import Policy

PRODUCER = "what-if"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of policy or inputs to try on a recording."""

    policy: Policy | None = None
    """Replaces the recorded policy; None: the recorded policy stays."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Part of the policy → field → new value. Changes single fields: of `policy`, or of the recorded policy if `policy`
    is None.
    """
    without: frozenset[str] = frozenset()
    """Event ids of inputs to leave out."""
    insert: tuple[Input, ...] = ()
    """Inputs to add, at their `at_us`. An input without a session id is added to every session."""

    def apply(self, recorded: Policy) -> Policy:
        """Return the recorded policy with this change. Raises pydantic's ValidationError if the change is invalid."""
        base = (self.policy or recorded).recorded()
        return Policy.model_validate(
            {p: fields | self.settings.get(p, {}) for p, fields in base.items()}
            | {p: v for p, v in self.settings.items() if p not in base}
        )


@dataclass(slots=True)
class WhatIf:
    """Outcome of a what-if: the events of the new run, and counts that show how much of the run is not recorded."""

    events: list[Event] = field(default_factory=list)
    """The events of the new run. If the change leaves inputs out, `events` is no sound log: the state hashes do not
    follow from the events.
    """
    results: int = 0
    """Number of results of services and playback in the new run."""
    simulated: int = 0
    """Number of `results` that are simulated."""
    moved: int = 0
    """Number of finals that come at another time than in the recording."""
    unjudged: int = 0
    """Number of utterances that the new run ends too early, or never ends. Their words in the new run are uncertain,
    because the recording has only finals of whole utterances.
    """
