"""`orch show`: prints a conversation as its golden log, event by event, in lanes, as spoken text, or as JSON."""

import shutil
import sys
from collections.abc import Iterable, Iterator

from cli.sources import whole
from cli.terminal import UsageError, no_effect
from events.codec import encode
from events.envelope import Derived, Event
from orchestrator.replay.replay import events_of
from orchestrator.replay.timeline import timeline
from orchestrator.replay.transcript import transcript
from orchestrator.replay.words import name, payload, seconds, value
from orchestrator.safe_text import one_line
from projections.golden_log import golden


def run(source: str, *, tools: bool, detailed: bool, timeline: bool, said: bool, as_json: bool, full: bool) -> int:
    forms = {"--json": as_json, "--timeline": timeline, "--said": said, "--detailed": detailed}
    given = [form for form, is_given in forms.items() if is_given]
    if len(given) > 1:
        raise no_effect(given[1], given[0])
    if said and tools:
        raise no_effect("--tools", "--said")
    if full and not (timeline or detailed):
        raise UsageError("--full has an effect only with --timeline or --detailed")
    events = events_of(whole(source))
    shown = _lines(events, tools=tools, detailed=detailed, lanes=timeline, said=said, as_json=as_json, full=full)
    for line in shown:
        print(line)
    return 0


def log_of(events: list[Event], version: str) -> tuple[list[Event], str]:
    """The log and the number for a version such as `41` (of the first session) or `SESSION:41`."""
    session, _, number = version.rpartition(":")
    return [event for event in events if event.session_id == (session or events[0].session_id)], number


def _lines(
    events: list[Event], *, tools: bool, detailed: bool, lanes: bool, said: bool, as_json: bool, full: bool
) -> Iterable[str]:
    if as_json:
        return (encode(event).decode() for event in events)
    if lanes:
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        return timeline(events, full=full, columns=columns)
    if said:
        return transcript(events)
    return _in_detail(events, full=full) if detailed else golden(events, with_tools=tools)


def _in_detail(events: list[Event], *, full: bool) -> Iterator[str]:
    """A section for each input, with the events derived from it and all their fields."""
    opened: dict[str, int] = {}
    for event in events:
        since = seconds(event.at_us - opened.setdefault(event.session_id, event.at_us))
        if not isinstance(event, Derived):
            yield f"── {one_line(event.session_id)} [{event.version}] {name(event)}  {since}  turn {event.turn}"
        else:
            yield f"   [{event.version}] {name(event)}"
        for field, content in payload(event).items():
            yield f"        {field}: {value(content, 0 if full else 100)}"
