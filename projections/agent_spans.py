"""Spans of the agent's work on a question: tool calls and requests to a model. A tool call may outlive its turn."""

import re

from events.derived import CommandIssued
from events.journal import ModelResponded, ToolReturned
from projections import names
from projections.span import Link, Span, TraceBuilder

_NAME = re.compile(r"[\w.:/@+-]{1,200}")


class AgentSpans:
    """Folds tool calls and responses of the model into spans."""

    def __init__(self, trace: TraceBuilder) -> None:
        self._trace = trace
        self._calls: dict[str, Span] = {}
        """Command id → open span of the tool call."""

    def call(self, event: CommandIssued, question: Span | None) -> None:
        """Open the span of a RunTool command. If the command is a retry, link the span to the span of the earlier
        attempt, and end that span. Otherwise link it to `question`: the open span of the AnswerQuestion command that
        led to the tool call; None: there is none.
        """
        tool = plain(str(event.payload.get("tool")))
        span = self._trace.open(names.EXECUTE_TOOL, event, of=tool)
        span.attributes |= {names.TOOL_NAME: tool, names.TOOL_CALL_ID: plain(event.target)}
        if (first := self._calls.get(event.retry_of)) is not None:
            span.links.append(Link(first.context, names.RETRY_OF))
            self._over(event.retry_of, "retried")
        elif question is not None:
            span.links.append(Link(question.context, names.CAUSED_BY))
        self._calls[event.command_id] = span

    def returned(self, event: ToolReturned) -> None:
        """End the span of a tool call as "returned" or, with an error, as "failed". A stale result changes nothing."""
        span = self._calls.get(event.command_id)
        if span is None or not event.cause:  # a result without a cause is stale
            return
        if event.error:
            span.error = span.attributes[names.ERROR_TYPE] = "tool_failed"
        self._over(event.command_id, "failed" if event.error else "returned")

    def withdraw(self, command_id: str) -> None:
        """End the span of a tool call that was cancelled. Does nothing if the command is not an open tool call."""
        self._over(command_id, "cancelled")

    def responded(self, event: ModelResponded, question: Span | None) -> Span:
        """Make the span of a request to the model, from the model's response. The calling code must close the span.

        `question`: the span of the AnswerQuestion command that led to the request; None: there is none.
        """
        model = plain(event.model) if event.model else ""
        span = self._trace.open(names.CHAT, event, of=model, is_call=True)
        span.start_us = max(self._trace.root.start_us, event.at_us - event.took_us)
        if model:
            span.attributes |= {names.REQUEST_MODEL: model, names.RESPONSE_MODEL: model}
        if event.input_tokens or event.output_tokens:
            span.attributes |= {names.INPUT_TOKENS: event.input_tokens, names.OUTPUT_TOKENS: event.output_tokens}
        span.attributes[names.OUTCOME] = "answered" if event.cause else "stale"
        if question is not None:
            span.links.append(Link(question.context, names.CAUSED_BY))
            if names.SPECULATION in question.attributes:
                span.attributes[names.SPECULATION] = question.attributes[names.SPECULATION]
        return span

    def end(self) -> None:
        """End all spans as cancelled, because the session is over."""
        for command_id in list(self._calls):
            self._over(command_id, "cancelled")

    def open_spans(self) -> list[Span]:
        return [*self._calls.values()]

    def _over(self, command_id: str, outcome: str) -> None:
        span = self._calls.pop(command_id, None)
        if span is None:
            return
        span.attributes[names.OUTCOME] = outcome
        turn = self._trace.turn
        if turn is not None and span.parent is turn.context:
            self._trace.close(span)
        else:  # the turn of the call is over, and a span must lie within its parent: the session is the parent
            self._trace.close_outside(span)


def plain(name: str) -> str:
    """Return the name of a tool or model, or the id of a call, if it has only letters, digits and `_.:/@+-`, at most
    200 of them. Otherwise return UNNAMED, because such a name may contain the user's words, and traces must not.
    """
    return name if _NAME.fullmatch(name) else names.UNNAMED
