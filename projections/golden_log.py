"""The golden log: formats events as lines, as in docs/target-flow.md. The service, `orch tail` and replay share it."""

from collections.abc import Callable, Iterable

from events import derived, journal
from events.envelope import Event
from orchestrator.safe_text import one_line

MARKS = {
    "IDLE": "🟢",
    "LISTENING": "🔵",
    "THINKING": "🟡",
    "SPEAKING": "🔴",
    "INTERRUPT": "🟣",
    "ENDED": "⚫",
}


class GoldenLog:
    """Formats committed events as lines. `mask`: replace the users' words with their length, and likewise the
    arguments, results and errors of tool calls. `with_tools`: add lines for tool calls and for responses of the agent's
    model.
    """

    def __init__(self, *, mask: bool = False, with_tools: bool = False) -> None:
        self._mask = mask
        self._work = WorkLines(self._words) if with_tools else None
        self._interrupted: set[str] = set()
        """Sessions interrupted since their last turn; their next turn is marked `(new user input)`."""

    def line(self, event: Event) -> str | None:
        """Return the line for an event; None: the event has no line. Most types of events have no line."""
        said = self._say(event) or (self._work.line(event) if self._work is not None else None)
        return None if said is None else f"[{one_line(event.session_id)}] {said}"

    def _say(self, event: Event) -> str | None:
        match event:
            case derived.StateChanged():
                return f"{MARKS[event.to_phase]} {event.to_phase}" + (
                    f" ({one_line(event.reason)})" if event.reason else ""
                )
            case derived.TurnStarted():
                return f"STT FINAL | text={self._words(event.text)}" + self._new_input(event.session_id)
            case derived.ProcessingComplete():
                return f"Processing complete in {(event.elapsed_us + 500) // 1000}ms"
            case derived.AnswerEnded(outcome="finished"):
                return f"TTS stream | chunks={event.chunks}"
            case derived.AnswerEnded(outcome="interrupted"):
                return "[TTS] Playing..."
            case derived.UserInterrupted():
                self._interrupted.add(event.session_id)
                return f"🔴 User interrupted ({event.reason})"
            case derived.SessionEnded():
                self._interrupted.discard(event.session_id)  # otherwise the set would grow for months
                return None
            case derived.CommandIssued(name="CancelTask"):
                return "Cancelling current task"
            case _:
                return None

    def _new_input(self, session_id: str) -> str:
        if session_id not in self._interrupted:
            return ""
        self._interrupted.discard(session_id)
        return "  (new user input)"

    def _words(self, text: str) -> str:
        return f"<{len(text)} characters>" if self._mask else one_line(text)


class WorkLines:
    """Formats the agent's work as lines of the golden log: tool calls, their results, responses of the model.

    `words`: a function that formats the arguments, result or error of a tool call. It masks these texts if the
    GoldenLog has `mask`.
    """

    def __init__(self, words: Callable[[str], str]) -> None:
        self._words = words
        self._tools: dict[tuple[str, str], str] = {}
        """(session id, call id) → name of the tool, for calls that are still running."""
        self._asked: journal.ToolCalled | None = None
        """The last TOOL_CALLED. The next EVENT_REJECTED may refuse this call."""

    def line(self, event: Event) -> str | None:
        """Return the line for an event, without the session's id; None: the event has no line."""
        match event:
            case journal.ToolCalled():
                self._asked = event
                how = " as before" if event.same_as else ""  # the tool does not run again
                return f"Tool {one_line(event.name)}({self._words(event.arguments)}){how}"
            case derived.EventRejected() if self._asked is not None and event.cause == self._asked.event_id:
                return f"Tool {one_line(self._asked.name)} ✗ {one_line(event.reason)}"
            case derived.CommandIssued(name="RunTool", payload=payload):
                self._tools[event.session_id, event.target] = one_line(str(payload.get("tool")))
            case derived.CommandIssued(name="CancelStage"):
                tool = self._tools.pop((event.session_id, event.target), None)
                return tool and f"Tool {tool} ✗ cancelled"
            case journal.ToolReturned() if event.cause:  # a result without a cause is stale
                tool = self._tools.pop((event.session_id, event.call_id), "")
                outcome = f"✗ {self._words(event.error)}" if event.error else f"→ {self._words(event.result)}"
                return f"Tool {tool} {outcome}"
            case journal.ModelResponded() if event.cause:
                return f"Model {one_line(event.model)} ({event.input_tokens}→{event.output_tokens} tokens)"
        return None


def golden(events: Iterable[Event], *, with_tools: bool = False) -> list[str]:
    """Return the lines of the golden log for these events."""
    formatter = GoldenLog(with_tools=with_tools)
    return [line for event in events if (line := formatter.line(event)) is not None]
