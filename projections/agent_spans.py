"""Spans of the agent's work on a question: tool calls, which may outlive their turn, and requests to its model."""

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
        """Open tool calls by command id."""

    def call(self, event: CommandIssued, question: Span | None) -> None:
        """Open the span of a RunTool command. `question`: the span of the AnswerQuestion command that led to it."""
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
        """End the span of a call with its result or its error. A late result changes nothing."""
        span = self._calls.get(event.command_id)
        if span is None or not event.cause:  # without a cause it was stale
            return
        if event.error:
            span.error = span.attributes[names.ERROR_TYPE] = "tool_failed"
        self._over(event.command_id, "failed" if event.error else "returned")

    def withdraw(self, command_id: str) -> None:
        """End the span of a tool call that was withdrawn; does nothing if the command is not an open tool call."""
        self._over(command_id, "cancelled")

    def responded(self, event: ModelResponded, question: Span | None) -> Span:
        """Make the span of a request to the model, from its response. The caller must close the span.

        `question`: the span of the AnswerQuestion command that led to the request.
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
        else:  # its turn is over: a span lies within its parent
            self._trace.close_outside(span)


def plain(name: str) -> str:
    """Return the name or id if it looks like one, otherwise UNNAMED: a failing service may return the user's words as a
    name, and traces must not contain them.
    """
    return name if _NAME.fullmatch(name) else names.UNNAMED
