"""The user's side of a recording, for a rerun with another agent: the same words, silences and interruptions.

A user who waited for the end of an answer waits for the end of today's answer, however long it is. A user who
interrupted an answer after two seconds does so again, and so does a user who spoke on while the agent was thinking.
Within an utterance the times are as recorded.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from events import inputs
from events.envelope import Event, Input
from orchestrator.session.state import State

_UTTERANCE = (inputs.SpeechStopped, inputs.SttPartial, inputs.SttFinal, inputs.SpeechStarted)
_USERS = (
    *_UTTERANCE,
    inputs.BargeIn,
    inputs.ClientConnected,
    inputs.ClientDisconnected,
    inputs.HandlerAttached,
    inputs.HandlerDetached,
    inputs.SessionCloseRequested,
)
"""Inputs that depend on what the agent does. Others, such as a takeover, keep their distance to the input before it."""

Waits = Literal["rest", "speaks", "thinks"]


class Floor:
    """Since when the agent rests, thinks or speaks, in microseconds of the session's time; None: it does not do so."""

    def __init__(self) -> None:
        self.rest: int | None = None
        self.speaks: int | None = None
        self.thinks: int | None = None
        self.changes = 0
        """How often the agent began to think, to speak or to rest."""

    def note(self, state: State, events: Sequence[Event]) -> None:
        """Update from the events of a step; `state` is the state after the step."""
        if not events:
            return
        if state.playback is None:
            self.speaks = None
        elif any(isinstance(event, inputs.PlaybackStarted) for event in events):
            self.speaks = state.at_us
            self.changes += 1
        thinks = state.task.started_at_us if state.task is not None else None
        self.changes += thinks not in (None, self.thinks)
        self.thinks = thinks
        if state.task is not None or state.playback is not None:
            self.rest = None
        elif self.rest is None:
            self.rest = state.at_us
            self.changes += 1

    def told(self) -> tuple[Waits, int | None]:
        """What the agent does (rests, speaks or thinks), and since when."""
        if self.speaks is not None:
            return "speaks", self.speaks
        return ("thinks", self.thinks) if self.thinks is not None else ("rest", self.rest)


@dataclass(frozen=True, slots=True)
class _Coming:
    at_us: int
    order: int
    event: Input
    waits_for: Waits
    gap_us: int | None
    """Microseconds from the start of the activity `waits_for` to this input; None: the input keeps its distance to the
    input before it.
    """
    changes: int
    """How often the floor changed since the input before this one."""


class UsersSide:
    """The inputs of a recording that are no results. Each comes when the user would say it in today's conversation."""

    def __init__(self) -> None:
        self.shift_us = 0
        """How much later than recorded today's conversation is, in microseconds."""
        self._coming: deque[_Coming] = deque()
        self._is_speaking = False
        self._changes = 0
        """Number of changes of the floor at the last input that was learned or taken."""

    def learn(self, order: int, event: Input, floor: Floor) -> None:
        """Add the next input of the recording; `floor` tells what the agent did just before this input."""
        waits_for, since_us = floor.told()
        leads = isinstance(event, _USERS) and not (self._is_speaking and isinstance(event, _UTTERANCE))
        gap_us = event.at_us - since_us if leads and since_us is not None else None
        changes, self._changes = floor.changes - self._changes, floor.changes
        self._coming.append(_Coming(event.at_us, order, event, waits_for, gap_us, changes))
        if isinstance(event, inputs.SpeechStarted):
            self._is_speaking = True
        elif isinstance(event, inputs.SttFinal | inputs.HearingFailed):
            self._is_speaking = False

    def due(self, floor: Floor, now_us: int) -> tuple[int, int] | None:
        """Time and order of the next input; None: there is none, or it waits for the agent."""
        if not self._coming:
            return None
        first = self._coming[0]
        kept_us = max(now_us, first.at_us + self.shift_us)
        if first.gap_us is None:
            return kept_us, first.order
        since_us: int | None = getattr(floor, first.waits_for)
        if since_us is not None and floor.changes - self._changes >= first.changes:
            return max(now_us, since_us + first.gap_us), first.order
        if floor.rest is not None:
            return kept_us, first.order  # the agent has nothing to say, or has not been asked yet
        return None

    def begin(self) -> None:
        """End learning: from now on, the inputs are taken."""
        self._changes = 0

    def take(self, at_us: int, floor: Floor) -> Input:
        """Take the next input, at this time."""
        first, self._changes = self._coming.popleft(), floor.changes
        self.shift_us = at_us - first.at_us
        return first.event

    def __bool__(self) -> bool:
        return bool(self._coming)
