"""Spans as data. The ids of a span depend only on the session, the span's name and the event that opened the span."""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from events.envelope import Event
from projections import names

Value = str | int | bool
Layout = Literal["session", "turn"]
"""session: one trace for the whole conversation. turn: one trace per turn, for long calls and sampling."""
_OPERATION = {
    names.TURN: "invoke_agent",
    names.TEXT_TO_SPEECH: "text_to_speech",
    names.SPEECH_TO_TEXT: "speech_to_text",
    names.EXECUTE_TOOL: names.EXECUTE_TOOL,
    names.CHAT: names.CHAT,
}
"""Kind of span → its operation in the gen_ai conventions of OpenTelemetry."""
MOST_MOMENTS = 128
"""Limit of events per span. It is the default of the OpenTelemetry SDK."""


@dataclass(slots=True)
class Context:
    """The ids of a span. Mutable, because a span may open before its turn, and then gets the trace id of the turn
    later. Links to the span hold the same Context object, so they get this trace id, too.
    """

    trace_id: int
    span_id: int


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a span other than the parent; `kind` is a link type of names.py."""

    to: Context
    kind: str


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """An event within a span, such as a phase change or a rejected input."""

    name: str
    at_us: int
    attributes: dict[str, Value]


@dataclass(slots=True)
class Span:
    """A span. Times are microseconds since 1970. `end_us` is 0 while the span is open."""

    name: str
    session_id: str
    key: str
    """Id of the event that opened the span."""
    start_us: int
    is_call: bool = False
    """Whether the span is a request to an external service (OpenTelemetry's kind CLIENT)."""
    end_us: int = 0
    context: Context = field(default_factory=lambda: Context(0, 0))
    parent: Context | None = None
    attributes: dict[str, Value] = field(default_factory=dict)
    moments: list[SpanEvent] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    error: str = ""

    def happened(self, moment: SpanEvent) -> None:
        """Add an event to the span. If the span has MOST_MOMENTS events, count the event in an attribute instead."""
        if len(self.moments) < MOST_MOMENTS:
            self.moments.append(moment)
        else:
            self.attributes[names.DROPPED_MOMENTS] = int(self.attributes.get(names.DROPPED_MOMENTS, 0)) + 1


class TraceBuilder:
    """Opens and closes the spans of one session: sets ids and parents, and keeps closed spans until `take`."""

    def __init__(self, root: Event, layout: Layout) -> None:
        self.at_us = root.at_us
        """Time of the current event, set by the calling code. A span without an end is closed with this time as its
        end.
        """
        self.turn: Span | None = None
        self._session_id = root.session_id
        self._layout = layout
        self._closed: list[Span] = []
        self.root = self.open(names.SESSION, root)

    def open(self, kind: str, event: Event, *, of: str = "", is_call: bool = False) -> Span:
        """Open a span that starts with an event. The span's name is `kind`, followed by `of` (the name of a tool or
        model) if it is given. `is_call`: the span is a request to an external service.
        """
        name = f"{kind} {of}" if of else kind
        span = Span(name, self._session_id, event.event_id, event.at_us, is_call)
        span.context = Context(trace_id(self._session_id), span_id(self._session_id, name, event.event_id))
        span.attributes[names.CONVERSATION_ID] = self._session_id
        if kind in _OPERATION:
            span.attributes[names.OPERATION] = _OPERATION[kind]
        if self.turn is not None:
            self.rehome(span)
        return span

    def open_turn(self, event: Event) -> Span:
        """Open the span of a turn. A span that begins and closes while the turn is open gets the turn as its parent."""
        self.turn = None
        turn = self.open(names.TURN, event)
        if self._layout == "turn":
            turn.context.trace_id = trace_id(self._session_id, event.event_id)
        self.turn = turn
        return turn

    def rehome(self, span: Span) -> None:
        """Set the parent of a span: the open turn; the session if no turn is open, or if the span began before the
        turn.
        """
        turn = self.turn
        parent = turn if turn is not None and span.start_us >= turn.start_us else self.root
        span.parent, span.context.trace_id = parent.context, parent.context.trace_id

    def close(self, span: Span) -> None:
        """Close a span and queue it for `take`. A span without an end ends at the time of the current event (`at_us`).

        Sets the parent of the span. For a turn: the session or, if each turn has a trace of its own, none. For any
        other span: the open turn or, if the span began before the turn, the session.
        """
        span.end_us = span.end_us or max(span.start_us, self.at_us)
        if span is self.turn:
            self.turn = None
            span.parent = self.root.context if self._layout == "session" else None
        elif span is not self.root:
            self.rehome(span)
        self._closed.append(span)

    def close_outside(self, span: Span) -> None:
        """End the span now, with the session as its parent, even if a turn is open."""
        turn, self.turn = self.turn, None
        self.close(span)
        self.turn = turn

    def take(self) -> list[Span]:
        """Return the spans that were closed since the last call of `take`."""
        taken, self._closed = self._closed, []
        return taken


def trace_id(session_id: str, key: str = "") -> int:
    """Compute the trace id of a session, or of one turn if `key` is the id of the turn's first event. Never zero."""
    digest = sha256("|".join(("orch/trace/v1", session_id, *([key] if key else ()))).encode()).digest()
    return int.from_bytes(digest[:16]) or 1


def span_id(session_id: str, name: str, key: str) -> int:
    """Compute the id of a span; `key` is the id of the event that opened the span. Never zero: OTLP forbids zero."""
    digest = sha256(f"orch/span/v1|{session_id}|{name}|{key}".encode()).digest()
    return int.from_bytes(digest[:8]) or 1


def in_order(spans: list[Span]) -> list[Span]:
    """Sort for export: by start; with the same start, the longest first; with the same length, by id."""
    return sorted(spans, key=lambda span: (span.start_us, -span.end_us, span.context.span_id))
