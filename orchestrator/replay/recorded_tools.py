"""The tool calls of a recording. In a rerun that runs no tools, today's agent gets the recorded results."""

from collections.abc import Iterable
from dataclasses import dataclass

from events.derived import CommandIssued
from events.envelope import Event
from events.journal import ToolCalled, ToolReturned


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A recorded tool call that ran. `returned`: its result; None: no result is recorded. `took_us`: its duration."""

    called: ToolCalled
    returned: ToolReturned | None = None
    took_us: int = 0


class RecordedTools:
    """Holds the recorded tool calls that ran. `take` finds a call by name and arguments, and returns each call once."""

    def __init__(self, log: Iterable[Event]) -> None:
        self._calls: list[RecordedCall] = []
        asked: ToolCalled | None = None
        running: dict[tuple[str, str], tuple[int, int]] = {}
        """(session id, call id) → (index of the call in `_calls`, time when the call began in microseconds). A later
        call with the same id replaces the earlier call here.
        """
        for event in log:
            match event:
                case ToolCalled():
                    asked = event
                case CommandIssued(name="RunTool") if asked is not None and event.cause == asked.event_id:
                    running[event.session_id, asked.call_id] = len(self._calls), event.at_us
                    self._calls.append(RecordedCall(asked))
                case ToolReturned() if event.cause and (event.session_id, event.call_id) in running:
                    index, began_us = running[event.session_id, event.call_id]
                    self._calls[index] = RecordedCall(self._calls[index].called, event, event.at_us - began_us)
        self._left = [*self._calls]

    def took_us(self, called: ToolCalled) -> int:
        """Return the duration of a recorded call in microseconds; 0: the call did not run, or did not return."""
        return next((call.took_us for call in self._calls if call.called is called), 0)

    def take(self, name: str, arguments: str) -> RecordedCall | None:
        """Return the next recorded call with this name and these arguments. None: all such calls have been returned."""
        for index, call in enumerate(self._left):
            if (call.called.name, call.called.arguments) == (name, arguments):
                return self._left.pop(index)
        return None
