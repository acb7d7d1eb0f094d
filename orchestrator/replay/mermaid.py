"""Draws a conversation as a Mermaid sequence diagram, for issues and documents."""

from collections.abc import Iterable, Iterator
from unicodedata import category

from events.derived import CommandIssued, StateChanged
from events.envelope import Event, Input
from events.inputs import TtsChunkReady
from orchestrator.replay.words import name, payload
from orchestrator.session.commands import COMMANDS

LONGEST = 40
_SHOWN = ("text", "answer", "intent", "setting", "name", "tool", "model", "error", "result")
"""Names of fields. The arrow of an event shows the first field of this list that has a value in the event."""


def mermaid(events: Iterable[Event]) -> Iterator[str]:
    """Yield the lines of a Mermaid sequence diagram. Leaves out timers and audio chunks, because they are too many."""
    yield "sequenceDiagram"
    yield from (f"    participant {who}" for who in ("Client", "Speech", "Session", "Services", "Player"))
    for event in events:
        if isinstance(event, StateChanged):
            yield f"    Note over Session: {event.to_phase}{f' ({_plain(event.reason)})' if event.reason else ''}"
        elif isinstance(event, CommandIssued):
            kind = COMMANDS.get(event.name)  # None: a log of another program may have other commands
            if kind is not None and kind.carried_out_by:
                yield f"    Session->>{kind.carried_out_by}: {event.name}{_about(event)}"
        elif isinstance(event, Input) and event.told_by != "Timers" and not isinstance(event, TtsChunkReady):
            yield f"    {event.told_by}->>Session: {name(event)}{_about(event)}"


def _about(event: Event) -> str:
    """Return the text that the arrow of an event shows, cut to LONGEST characters, without Mermaid syntax."""
    said = payload(event)
    text = str(next((found for field in _SHOWN if (found := said.get(field))), ""))
    plain = _plain(text)
    return f" {plain[:LONGEST]}{'…' if len(plain) > LONGEST else ''}" if plain.strip() else ""


def _plain(text: str) -> str:
    """Replace with a blank each character that Mermaid may read as syntax, such as a line end, `;`, `#`, `:` or a
    bracket. Letters, digits and their marks stay, in any writing system.
    """
    return "".join(one if one in " .,?!'-_" or category(one)[0] in "LMN" else " " for one in text)
