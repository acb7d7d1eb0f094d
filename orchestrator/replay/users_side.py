"""The user's side of a recording, for a rerun: the same words, silences and interruptions.

A user who waited for the end of an answer also waits for the end of today's answer. A user who interrupted an answer
after two seconds also interrupts today's answer after two seconds. A user who spoke on while the agent was thinking
does so again. Within an utterance the times are as recorded.
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
"""Types of inputs whose times depend on the agent's activity. Inputs within an utterance, and inputs of other types,
such as a takeover, keep their recorded distance in time to the input before them.
"""

Waits = Literal["rest", "speaks", "thinks"]
"""An activity of the agent, for whose beginning an input of the user waits."""


class Activity:
    """Tells whether the agent rests, speaks or thinks. `rest`, `speaks`, `thinks`: the time in microseconds when this
    activity began; None: the agent does not do it now.
    """

    def __init__(self) -> None:
        self.rest: int | None = None
        self.speaks: int | None = None
        self.thinks: int | None = None
        self.changes = 0
        """How often the agent began to think, to speak or to rest."""

    def note(self, state: State, events: Sequence[Event]) -> None:
        """Update the agent's activity after a step. `state`: the state after the step. `events`: the events of the
        step.
        """
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
        """Return the agent's activity now: (kind of activity, time in microseconds when the activity began). Returns
        ("rest", None) if no activity has begun, such as before the first step of the session.
        """
        if self.speaks is not None:
            return "speaks", self.speaks
        return ("thinks", self.thinks) if self.thinks is not None else ("rest", self.rest)


@dataclass(frozen=True, slots=True)
class _Coming:
    """A recorded input that has not come yet. `at_us`: its recorded time. `order`: its index in the log."""

    at_us: int
    order: int
    event: Input
    waits_for: Waits
    gap_us: int | None
    """Microseconds from the beginning of the activity `waits_for` to the input. None: the input keeps its recorded
    distance in time to the input before it.
    """
    changes: int
    """How often the agent began to rest, speak or think in the recording, between the previous input of `UsersSide` and
    this input.
    """


class UsersSide:
    """The recorded inputs that answer no command. Each input comes when the user would give it in the rerun."""

    def __init__(self) -> None:
        self.shift_us = 0
        """How much later the last input came in the rerun than in the recording, in microseconds."""
        self._coming: deque[_Coming] = deque()
        self._is_speaking = False
        self._changes = 0
        """`Activity.changes` when the previous input came: in the recording until `begin` is called, then in the rerun.
        """

    def learn(self, order: int, event: Input, activity: Activity) -> None:
        """Add the next recorded input. `order`: its index in the log. `activity`: the agent's activity in the
        recording, just before this input.
        """
        waits_for, since_us = activity.told()
        leads = isinstance(event, _USERS) and not (self._is_speaking and isinstance(event, _UTTERANCE))
        gap_us = event.at_us - since_us if leads and since_us is not None else None
        changes, self._changes = activity.changes - self._changes, activity.changes
        self._coming.append(_Coming(event.at_us, order, event, waits_for, gap_us, changes))
        if isinstance(event, inputs.SpeechStarted):
            self._is_speaking = True
        elif isinstance(event, inputs.SttFinal | inputs.HearingFailed):
            self._is_speaking = False

    def due(self, activity: Activity, now_us: int) -> tuple[int, int] | None:
        """Return (time in microseconds, index in the log) of the next input. None: no input is left, or the next input
        waits for an activity of the agent. `activity`: the agent's activity in the rerun. `now_us`: the time in the
        rerun.
        """
        if not self._coming:
            return None
        first = self._coming[0]
        kept_us = max(now_us, first.at_us + self.shift_us)
        if first.gap_us is None:
            return kept_us, first.order
        since_us: int | None = getattr(activity, first.waits_for)
        if since_us is not None and activity.changes - self._changes >= first.changes:
            return max(now_us, since_us + first.gap_us), first.order
        if activity.rest is not None:
            return kept_us, first.order  # the agent rests, so the awaited activity may never begin
        return None

    def begin(self) -> None:
        """Start the rerun. Call once, after the last `learn` and before the first `due` or `take`."""
        self._changes = 0

    def take(self, at_us: int, activity: Activity) -> Input:
        """Remove and return the next input. `at_us`: the time at which the input comes in the rerun. `activity`: the
        agent's activity at this time.
        """
        first, self._changes = self._coming.popleft(), activity.changes
        self.shift_us = at_us - first.at_us
        return first.event

    def __bool__(self) -> bool:
        return bool(self._coming)
