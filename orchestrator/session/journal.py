"""Folds a log into the work of the agent on its last question: its tool calls, and the responses of its model."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from events.derived import CommandIssued, EventRejected
from events.envelope import Event
from events.journal import ModelResponded, ToolCalled, ToolReturned

Outcome = Literal["open", "returned", "failed", "cancelled", "refused"]


@dataclass(frozen=True, slots=True)
class Called:
    """A tool call. `arguments` is JSON, `result` too; `error` says why there is no result."""

    call_id: str
    name: str
    arguments: str
    outcome: Outcome = "open"
    result: str = ""
    error: str = ""

    def after(self, event: ToolReturned) -> "Called":
        """A copy of the call with the result or the error of its TOOL_RETURNED."""
        outcome: Outcome = "failed" if event.error else "returned"
        return replace(self, outcome=outcome, result=event.result, error=event.error)


class Journal:
    """The agent's work on the last question, and those calls of earlier questions that are still open.

    `question` is the idempotency key of the last question. Pass each committed event once, in order. Unlike the state,
    the journal holds the arguments, results and responses themselves.
    """

    def __init__(self, question: str = "") -> None:
        self.question = question
        self.calls: dict[str, Called] = {}
        """Call id → call."""
        self.responses: dict[str, str] = {}
        """Call id → response of the model, as JSON."""
        self._asked: ToolCalled | None = None
        """The last TOOL_CALLED. The event after it runs or refuses the call."""

    def hear(self, events: Iterable[Event]) -> None:
        """Add the facts among committed events: tool calls, their results, responses of the model."""
        for event in events:
            if (note := _NOTES.get(type(event))) is not None:
                note(self, event)

    def _called(self, event: ToolCalled) -> None:
        self._asked = event

    def _rejected(self, event: EventRejected) -> None:
        asked = self._asked
        if asked is not None and event.cause == asked.event_id and asked.call_id not in self.calls:
            self.calls[asked.call_id] = Called(asked.call_id, asked.name, asked.arguments, "refused", "", event.reason)

    def _issued(self, event: CommandIssued) -> None:
        match event.name:
            case "RunTool" if self._asked is not None and event.cause == self._asked.event_id:
                asked = self._asked
                self.calls[asked.call_id] = Called(asked.call_id, asked.name, asked.arguments)
            case "CancelStage" if (call := self.calls.get(str(event.payload["stage_name"]))) is not None:
                self.calls[call.call_id] = replace(call, outcome="cancelled", error="the user went on without it")
            case "AnswerQuestion" if event.idempotency_key != self.question:
                self.question = event.idempotency_key
                self.responses.clear()
                self.calls = {call.call_id: call for call in self.calls.values() if call.outcome == "open"}

    def _returned(self, event: ToolReturned) -> None:
        if event.cause and (call := self.calls.get(event.call_id)) is not None:  # without a cause it was stale
            self.calls[call.call_id] = call.after(event)

    def _responded(self, event: ModelResponded) -> None:
        if event.cause:
            self.responses[event.call_id] = event.response


_NOTES: dict[type[Event], Callable[[Journal, Any], None]] = {
    ToolCalled: Journal._called,
    EventRejected: Journal._rejected,
    CommandIssued: Journal._issued,
    ToolReturned: Journal._returned,
    ModelResponded: Journal._responded,
}
