"""Folds a log into the conversation so far: the user's words, what they heard of each answer, and the tool calls."""

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
"""Number of lines kept. More than LINES_GIVEN: lines after the requested version must not push out those before it."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call of the conversation; `arguments` is a JSON object, as text. `outcome`: "open" while it runs, then
    "returned", "failed" or "cancelled".
    """

    call_id: str
    name: str
    arguments: str
    outcome: str = "open"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the conversation: words of the user, words of the agent as far as the user heard them, or a tool call
    (`call`), whose result as JSON, or error, is the text; it is empty while the call is open.
    """

    role: Literal["agent", "tool", "user"]
    text: str
    call: ToolCall | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the conversation; `version` is the version of its event in the session's log.

    A tool call is a line, too: `text` is then its result as JSON, or its error; empty while the call is running.
    """

    role: Literal["agent", "tool", "user"]
    text: str
    version: int
    call: Called | None = None
    line: Line = field(init=False, repr=False, compare=False)
    """What requests to the answer service have of it; made once, since each of the next questions has it."""

    def __post_init__(self) -> None:
        call = self.call
        tool = ToolCall(call.call_id, call.name, call.arguments, call.outcome) if call is not None else None
        object.__setattr__(self, "line", Line(self.role, self.text, tool))


class ConversationSoFar:
    """The last lines of a conversation, for the answer service. Pass it each committed event once, in order."""

    def __init__(self, said: Iterable[Said] = (), turn_began: int = 0) -> None:
        self._lines: deque[Said] = deque(said, maxlen=_LINES_KEPT)
        self.turn_began = turn_began
        """The version of the last TURN_STARTED."""

    @property
    def said(self) -> tuple[Said, ...]:
        """All kept lines, oldest first."""
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
        if event.outcome == "merged":  # the next turn repeats these words, and adds the later ones
            kept = (line for line in self._lines if line.version != self.turn_began)
            self._lines = deque(kept, maxlen=_LINES_KEPT)

    def _tool_called(self, event: ToolCalled) -> None:
        if event.cause:  # else it is stale
            self._lines.append(Said("tool", "", event.version, Called(event.call_id, event.name, event.arguments)))

    def _rejected(self, event: EventRejected) -> None:
        """Remove the line of a tool call that was refused. Its TOOL_CALLED is the event just before this one."""
        if self._lines and self._lines[-1].call is not None and self._lines[-1].version == event.version - 1:
            self._lines.pop()

    def _command_issued(self, event: CommandIssued) -> None:
        if event.name == "CancelStage":
            self._end(str(event.payload["stage_name"]), lambda call: replace(call, outcome="cancelled"))

    def _tool_returned(self, event: ToolReturned) -> None:
        if event.cause:  # else it was stale
            self._end(event.call_id, lambda call: call.after(event))

    def _end(self, call_id: str, change: Callable[[Called], Called]) -> None:
        for index, line in enumerate(self._lines):
            if line.call is not None and line.call.call_id == call_id and line.call.outcome == "open":
                call = change(line.call)
                self._lines[index] = replace(line, text=call.result or call.error, call=call)

    def until(self, version: int) -> tuple[Line, ...]:
        """The last LINES_GIVEN lines up to a version of the log, oldest first."""
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
