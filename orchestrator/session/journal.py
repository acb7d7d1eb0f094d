"""Folds a log into the journal of the last question: tool calls with their results, and responses of the agent's model.
The state does not hold their contents.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from events.derived import CommandIssued, EventRejected
from events.envelope import Event
from events.journal import ModelResponded, ToolCalled, ToolReturned

Outcome = Literal["open", "returned", "failed", "cancelled", "refused"]


@dataclass(frozen=True, slots=True)
class Called:
    """A tool call. `arguments` and `result` are JSON; `error` says why there is no result. `ended`: version of the
    call's TOOL_RETURNED; 0: the call has not returned. `same_as`: id of an equal call of an earlier question, whose
    result this call gets; empty: the tool itself runs.
    """

    call_id: str
    name: str
    arguments: str
    outcome: Outcome = "open"
    result: str = ""
    error: str = ""
    ended: int = 0
    same_as: str = ""

    def after(self, event: ToolReturned) -> "Called":
        """Return a copy of the call with the result or the error of its TOOL_RETURNED."""
        outcome: Outcome = "failed" if event.error else "returned"
        return replace(self, outcome=outcome, result=event.result, error=event.error, ended=event.version)


class Journal:
    """The agent's work on the last question, and those tool calls of earlier questions that were open when the last
    question was asked.

    `question` is the idempotency key of the last question; `calls` are the tool calls so far. Pass each committed event
    to `hear` once, in order.
    """

    def __init__(self, question: str = "", calls: Iterable[Called] = ()) -> None:
        self.question = question
        self.calls = {call.call_id: call for call in calls}
        """Call id → call."""
        self.responses: dict[str, str] = {}
        """Id of a request to the model → the model's response, as JSON."""
        self._asked: ToolCalled | None = None
        """The last TOOL_CALLED. The next event in the log runs the call (RunTool) or refuses it (EVENT_REJECTED)."""

    def hear(self, events: Iterable[Event]) -> None:
        """Add the tool calls, tool results and responses of the model among committed events."""
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
                self.calls[asked.call_id] = Called(asked.call_id, asked.name, asked.arguments, same_as=asked.same_as)
            case "CancelStage" if (call := self.calls.get(str(event.payload["stage_name"]))) is not None:
                self.calls[call.call_id] = replace(call, outcome="cancelled", error="the user went on without it")
            case "AnswerQuestion" if event.idempotency_key != self.question:
                self.question = event.idempotency_key
                self.responses.clear()
                opened = [call for call in self.calls.values() if call.outcome == "open"]
                needed = {name for call in opened for name in (call.call_id, call.same_as)}
                self.calls = {name: call for name, call in self.calls.items() if name in needed}

    def _returned(self, event: ToolReturned) -> None:
        if event.cause and (call := self.calls.get(event.call_id)) is not None:  # a stale event has no cause
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
