"""A span as data, and its identity: a function of the session and of the event that opened it, and of nothing else."""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from events.envelope import Event
from projections import names

Value = str | int | bool
Layout = Literal["session", "turn"]
"""session: one trace holds the whole conversation. turn: each turn has one of its own, for long calls and sampling."""
_OPERATION = {
    names.TURN: "invoke_agent",
    names.TEXT_TO_SPEECH: "text_to_speech",
    names.SPEECH_TO_TEXT: "speech_to_text",
}
MOST_MOMENTS = 128
"""As the OpenTelemetry SDK limits the events of a span."""


@dataclass(slots=True)
class Context:
    """What other spans name a span by. It is shared with those who link to it, since the trace of a span that was
    opened before its turn is known only with the turn.
    """

    trace_id: int
    span_id: int


@dataclass(frozen=True, slots=True)
class Link:
    """A span that this one has to do with, and that is not its parent."""

    to: Context
    kind: str


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened at one moment of a span."""

    name: str
    at_us: int
    attributes: dict[str, Value]


@dataclass(slots=True)
class Span:
    """A stretch of a conversation. `end_us` is 0 while it is open."""

    name: str
    session_id: str
    key: str
    """The id of the event that opened it."""
    start_us: int
    is_call: bool = False
    """Whether it is a request to a service of somebody else's."""
    end_us: int = 0
    context: Context = field(default_factory=lambda: Context(0, 0))
    parent: Context | None = None
    attributes: dict[str, Value] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    error: str = ""

    def happened(self, moment: Moment) -> None:
        """Note a moment; those beyond MOST_MOMENTS are only counted."""
        if len(self.moments) < MOST_MOMENTS:
            self.moments.append(moment)
        else:
            self.attributes[names.DROPPED_MOMENTS] = int(self.attributes.get(names.DROPPED_MOMENTS, 0)) + 1


class Book:
    """The spans of one session: which are open above all others, and which were closed since they were last taken."""

    def __init__(self, root: Event, layout: Layout) -> None:
        self.at_us = root.at_us
        self.turn: Span | None = None
        self._session_id = root.session_id
        self._layout = layout
        self._closed: list[Span] = []
        self.root = self.open(names.SESSION, root)

    def open(self, name: str, event: Event, *, is_call: bool = False) -> Span:
        """A span that begins with an event."""
        span = Span(name, self._session_id, event.event_id, event.at_us, is_call)
        span.context = Context(trace_id(self._session_id), span_id(self._session_id, name, event.event_id))
        span.attributes[names.CONVERSATION_ID] = self._session_id
        if name in _OPERATION:
            span.attributes[names.OPERATION] = _OPERATION[name]
        if self.turn is not None:
            self.rehome(span)
        return span

    def open_turn(self, event: Event) -> Span:
        """The turn that all spans are of, until it is closed."""
        self.turn = None
        turn = self.open(names.TURN, event)
        if self._layout == "turn":
            turn.context.trace_id = trace_id(self._session_id, event.event_id)
        self.turn = turn
        return turn

    def rehome(self, span: Span) -> None:
        """It is of the turn that is open; of the session, if it began before that turn (the user spoke, then typed)."""
        turn = self.turn
        parent = turn if turn is not None and span.start_us >= turn.start_us else self.root
        span.parent, span.context.trace_id = parent.context, parent.context.trace_id

    def close(self, span: Span) -> None:
        """It ends now, unless it has before, and is given out."""
        span.end_us = span.end_us or max(span.start_us, self.at_us)
        if span is self.turn:
            self.turn = None
            span.parent = self.root.context if self._layout == "session" else None
        elif span is not self.root:
            self.rehome(span)
        self._closed.append(span)

    def take(self) -> list[Span]:
        """What was closed since the last time."""
        taken, self._closed = self._closed, []
        return taken


def trace_id(session_id: str, key: str = "") -> int:
    """Of a session's trace; with the id of the event that opened it, of one turn's. Never zero."""
    digest = sha256("|".join(("orch/trace/v1", session_id, *([key] if key else ()))).encode()).digest()
    return int.from_bytes(digest[:16]) or 1


def span_id(session_id: str, name: str, key: str) -> int:
    """Never zero, which OTLP calls invalid."""
    digest = sha256(f"orch/span/v1|{session_id}|{name}|{key}".encode()).digest()
    return int.from_bytes(digest[:8]) or 1


def in_order(spans: list[Span]) -> list[Span]:
    """The order of all exports: by beginning, the longer first, then by id."""
    return sorted(spans, key=lambda span: (span.start_us, -span.end_us, span.context.span_id))
