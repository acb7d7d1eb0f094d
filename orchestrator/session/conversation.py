"""The conversation so far: what the user said, and of the agent's answers what was heard. Folded from a log."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from events.derived import AnswerEnded, TurnEnded, TurnStarted
from events.envelope import Event

LINES_GIVEN = 40
_LINES_KEPT = 2 * LINES_GIVEN
"""More than are given: what was said after the version that is asked for must not push out what was said before."""


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the conversation; `version` is that of the event in the session's log that says so."""

    role: Literal["agent", "user"]
    text: str
    version: int


class ConversationSoFar:
    """The last lines of a conversation, for whoever answers next. It hears each committed event once, in order."""

    def __init__(self, said: Iterable[Said] = (), turn_began: int = 0) -> None:
        self._lines: deque[Said] = deque(said, maxlen=_LINES_KEPT)
        self.turn_began = turn_began
        """The version of the last TURN_STARTED."""

    @property
    def said(self) -> tuple[Said, ...]:
        """All lines that are kept, oldest first."""
        return tuple(self._lines)

    def hear(self, events: Iterable[Event]) -> None:
        """Fold committed events."""
        for event in events:
            match event:
                case TurnStarted():
                    self.turn_began = event.version
                    self._lines.append(Said("user", event.text, event.version))
                case AnswerEnded() if event.heard_text:
                    self._lines.append(Said("agent", event.heard_text, event.version))
                case TurnEnded(outcome="merged"):  # the next turn says these words again, with those that came after
                    kept = (line for line in self._lines if line.version != self.turn_began)
                    self._lines = deque(kept, maxlen=_LINES_KEPT)

    def until(self, version: int) -> tuple[Said, ...]:
        """The last lines up to a version of the log, oldest first."""
        return tuple(line for line in self._lines if line.version <= version)[-LINES_GIVEN:]
