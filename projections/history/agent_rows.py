"""Folds the agent's work into rows of the history: its tool calls, and the responses of its model. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

from events import derived, journal
from events.envelope import Event

Row = dict[str, Any]


class AgentRows:
    """Folds the events of one session into rows of tool calls and of model responses. `open_calls`: rows of the tool
    calls that run before the first step.
    """

    def __init__(self, session_id: str, open_calls: Iterable[Row] = ()) -> None:
        self._session_id = session_id
        self._open: dict[str, Row] = {row["call_id"]: row for row in open_calls}

    def take(self, step: Sequence[Event]) -> tuple[list[Row], list[Row]]:
        """Fold a step. Returns the new and changed rows of tool calls, and the new rows of model responses."""
        calls: list[Row] = []
        responses: list[Row] = []
        refusal = next((event.reason for event in step if isinstance(event, derived.EventRejected)), "")
        for event in step:
            match event:
                case journal.ToolCalled():
                    calls.append(self._called(event, refusal))
                case journal.ToolReturned() if event.cause:  # a result without a cause is stale
                    outcome = "failed" if event.error else "returned"
                    ended = {"result": event.result, "error": event.error, "took_us": event.elapsed_us}
                    calls += self._over(event.call_id, event, outcome, ended)
                case journal.ModelResponded():
                    responses.append(self._responded(event))
                case derived.CommandIssued(name="CancelStage"):
                    calls += self._over(event.target, event, "cancelled")
        return calls, responses

    def _called(self, event: journal.ToolCalled, refusal: str) -> Row:
        row = self._of(event) | {
            "call_id": event.call_id,
            "name": event.name,
            "arguments": event.arguments,
            "outcome": "refused" if refusal else "",
            "result": "",
            "error": refusal,
            "called_us": event.at_us,
            "returned_us": None,
            "took_us": None,
        }
        if not refusal:
            self._open[event.call_id] = row
        return row

    def _over(self, call_id: str, event: Event, outcome: str, ended: Row | None = None) -> list[Row]:
        row = self._open.pop(call_id, None)
        if row is None:
            return []
        row |= {"outcome": outcome, "returned_us": event.at_us} | (ended or {})
        return [row]

    def _responded(self, event: journal.ModelResponded) -> Row:
        return self._of(event) | {
            "at_us": event.at_us,
            "call_id": event.call_id,
            "model": event.model,
            "input_tokens": event.input_tokens,
            "output_tokens": event.output_tokens,
            "took_us": event.took_us,
        }

    def _of(self, event: Event) -> Row:
        return {"session_id": self._session_id, "version": event.version, "turn": event.turn}
