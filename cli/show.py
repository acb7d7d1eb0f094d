"""`orch show`: a conversation to read; as its golden log, event by event, in lanes, or as JSON."""

from collections.abc import Iterable, Iterator

from cli.sources import whole
from events.codec import encode
from events.envelope import Derived, Event
from events.recording import Recording
from orchestrator.replay.replay import replay
from orchestrator.replay.timeline import timeline
from orchestrator.replay.words import name, payload, seconds, value
from projections.golden_log import golden


def run(source: str, *, detailed: bool, timeline: bool, as_json: bool, full: bool) -> int:
    events = events_of(whole(source))
    for line in _lines(events, detailed=detailed, lanes=timeline, as_json=as_json, full=full):
        print(line)
    return 0


def events_of(recording: Recording) -> list[Event]:
    """What was recorded; of a recording of inputs alone, what they lead to today."""
    return [*recording.events()] if recording.header.derived else replay(recording).events


def log_of(events: list[Event], version: str) -> tuple[list[Event], str]:
    """The log that `41` (of the first session) or `SESSION:41` is about, and the number."""
    session, _, number = version.rpartition(":")
    return [event for event in events if event.session_id == (session or events[0].session_id)], number


def _lines(events: list[Event], *, detailed: bool, lanes: bool, as_json: bool, full: bool) -> Iterable[str]:
    if as_json:
        return (encode(event).decode() for event in events)
    if lanes:
        return timeline(events, full=full)
    return _in_detail(events, full=full) if detailed else golden(events)


def _in_detail(events: list[Event], *, full: bool) -> Iterator[str]:
    """A section for each input, with what was said about it."""
    opened: dict[str, int] = {}
    for event in events:
        since = seconds(event.at_us - opened.setdefault(event.session_id, event.at_us))
        if not isinstance(event, Derived):
            yield f"── {event.session_id} [{event.version}] {name(event)}  {since}  turn {event.turn}"
        else:
            yield f"   [{event.version}] {name(event)}"
        for field, content in payload(event).items():
            yield f"        {field}: {value(content, 0 if full else 100)}"
