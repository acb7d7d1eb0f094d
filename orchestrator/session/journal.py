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
        """The call with its result."""
        outcome: Outcome = "failed" if event.error else "returned"
        return replace(self, outcome=outcome, result=event.result, error=event.error)


class Journal:
    """The agent's work on the question with this idempotency key, and calls of earlier ones that are still open.

    Pass it each committed event once, in order. It has the contents, which the state has not.
    """

    def __init__(self, question: str = "") -> None:
        self.question = question
        self.calls: dict[str, Called] = {}
        """Call id → call."""
        self.responses: dict[str, str] = {}
        """Call id → response of the model, as JSON."""
        self._asked: ToolCalled | None = None
        """A call that the next event runs or refuses."""

    def hear(self, events: Iterable[Event]) -> None:
        """Fold committed events."""
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
