"""The tool calls of a recording. In a rerun, the agent of today gets their results, unless its tools are to run."""

from collections.abc import Iterable
from dataclasses import dataclass

from events.derived import CommandIssued
from events.envelope import Event
from events.journal import ToolCalled, ToolReturned


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A recorded tool call that ran; `returned` is None where no result is recorded."""

    called: ToolCalled
    returned: ToolReturned | None = None
    took_us: int = 0


class RecordedTools:
    """The recorded tool calls that ran, by name and arguments. A rerun takes each of them once, for its result."""

    def __init__(self, log: Iterable[Event]) -> None:
        self._calls: dict[str, RecordedCall] = {}
        self._taken: set[str] = set()
        asked: ToolCalled | None = None
        began_us: dict[str, int] = {}
        for event in log:
            match event:
                case ToolCalled():
                    asked = event
                case CommandIssued(name="RunTool") if asked is not None and event.cause == asked.event_id:
                    self._calls[asked.call_id] = RecordedCall(asked)
                    began_us[asked.call_id] = event.at_us
                case ToolReturned() if event.cause and event.call_id in self._calls:
                    called, took_us = self._calls[event.call_id].called, event.at_us - began_us[event.call_id]
                    self._calls[event.call_id] = RecordedCall(called, event, took_us)

    def take(self, name: str, arguments: str) -> RecordedCall | None:
        """Take the next recorded call of this name with these arguments; None: the recording has no more such calls."""
        for call_id, call in self._calls.items():
            if call_id not in self._taken and (call.called.name, call.called.arguments) == (name, arguments):
                self._taken.add(call_id)
                return call
        return None
