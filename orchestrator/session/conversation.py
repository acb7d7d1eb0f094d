"""Folds a log into the conversation: the user's words, the answers as far as heard, and the results of tool calls. The
state does not hold the conversation.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from events.derived import AnswerEnded, CommandIssued, EventRejected, TurnEnded, TurnStarted
from events.envelope import Event
from events.journal import ToolCalled, ToolReturned
from orchestrator.session.journal import Called

LINES_GIVEN = 40
_LINES_KEPT = 2 * LINES_GIVEN
"""Number of lines kept: more than LINES_GIVEN, because `until` leaves out lines after a version."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call of the conversation; `arguments` is a JSON object, as text. `outcome`: "open" while the call runs,
    then "returned", "failed" or "cancelled".
    """

    call_id: str
    name: str
    arguments: str
    outcome: str = "open"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the conversation as the answer service gets it. `text`, by `role`: user: the user's words; agent: the
    agent's words that the user heard; tool: the result of the tool call `call` as JSON, or its error. The text is empty
    for a tool call that is running or cancelled.
    """

    role: Literal["agent", "tool", "user"]
    text: str
    call: ToolCall | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the conversation, as this module keeps it. `version`: version of the event that gave the line. `role`,
    `text`: as in Line.
    """

    role: Literal["agent", "tool", "user"]
    text: str
    version: int
    call: Called | None = None
    line: Line = field(init=False, repr=False, compare=False)
    """The line in the form that the answer service gets. Built once, because each later request contains it again."""

    def __post_init__(self) -> None:
        call = self.call
        tool = ToolCall(call.call_id, call.name, call.arguments, call.outcome) if call is not None else None
        object.__setattr__(self, "line", Line(self.role, self.text, tool))


class ConversationSoFar:
    """The last lines of a conversation, for the answer service. Pass each committed event to `hear` once, in order."""

    def __init__(self, said: Iterable[Said] = (), turn_began: int = 0) -> None:
        self._lines: deque[Said] = deque(said, maxlen=_LINES_KEPT)
        self.turn_began = turn_began
        """The version of the last TURN_STARTED."""

    @property
    def said(self) -> tuple[Said, ...]:
        """The last lines of the conversation (at most _LINES_KEPT), oldest first: the words of the user and of the
        agent, and tool results.
        """
        return tuple(self._lines)

    def hear(self, events: Iterable[Event]) -> None:
        """Update the lines with committed events."""
        for event in events:
            if (note := _NOTES.get(type(event))) is not None:
                note(self, event)

    def _turn_started(self, event: TurnStarted) -> None:
        self.turn_began = event.version
        self._lines.append(Said("user", event.text, event.version))

    def _answer_ended(self, event: AnswerEnded) -> None:
        if event.heard_text:
            self._lines.append(Said("agent", event.heard_text, event.version))

    def _turn_ended(self, event: TurnEnded) -> None:
        if event.outcome == "merged":  # the next turn has the words of this turn and the added words
            kept = (line for line in self._lines if line.version != self.turn_began)
            self._lines = deque(kept, maxlen=_LINES_KEPT)

    def _tool_called(self, event: ToolCalled) -> None:
        if event.cause and not event.same_as:  # a stale TOOL_CALLED has no cause
            self._lines.append(Said("tool", "", event.version, Called(event.call_id, event.name, event.arguments)))

    def _rejected(self, event: EventRejected) -> None:
        """Remove the line of a tool call that the reducer refused."""
        # EVENT_REJECTED follows the TOOL_CALLED directly.
        if self._lines and self._lines[-1].call is not None and self._lines[-1].version == event.version - 1:
            self._lines.pop()

    def _command_issued(self, event: CommandIssued) -> None:
        if event.name == "CancelStage":
            self._end(str(event.payload["stage_name"]), lambda call: replace(call, outcome="cancelled"))

    def _tool_returned(self, event: ToolReturned) -> None:
        if event.cause:  # a stale TOOL_RETURNED has no cause
            self._end(event.call_id, lambda call: call.after(event))

    def _end(self, call_id: str, change: Callable[[Called], Called]) -> None:
        for index, line in enumerate(self._lines):
            if line.call is not None and line.call.call_id == call_id and line.call.outcome == "open":
                call = change(line.call)
                self._lines[index] = replace(line, text=call.result or call.error, call=call)

    def until(self, version: int) -> tuple[Line, ...]:
        """Return the last LINES_GIVEN lines up to a version of the log, oldest first."""
        return tuple([said.line for said in self._lines if said.version <= version][-LINES_GIVEN:])


_NOTES: dict[type[Event], Callable[[ConversationSoFar, Any], None]] = {
    TurnStarted: ConversationSoFar._turn_started,
    AnswerEnded: ConversationSoFar._answer_ended,
    TurnEnded: ConversationSoFar._turn_ended,
    ToolCalled: ConversationSoFar._tool_called,
    EventRejected: ConversationSoFar._rejected,
    CommandIssued: ConversationSoFar._command_issued,
    ToolReturned: ConversationSoFar._tool_returned,
}
