"""What the simulated world saw of each step, for the checkers: they have no other window into it."""

from dataclasses import dataclass

from events.derived import CommandIssued
from events.envelope import Event, Input


@dataclass(frozen=True, slots=True)
class Moment:
    """What is going on in the world when a step has been carried out."""

    audible: tuple[str, ...] = ()
    """Playbacks that can be heard."""
    handler_id: str = ""
    microphone: str = ""
    paused: tuple[str, ...] = ()
    """Playbacks that the player holds."""
    running: tuple[tuple[str, str], ...] = ()
    """(name, target) of each effect and timer of the owner."""


@dataclass(frozen=True, slots=True)
class Heard:
    """How far a playback has come in truth, and by how much what the session was told may differ from it."""

    position_ms: int
    doubt_ms: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One step as the world saw it."""

    input: Input
    said: tuple[Event, ...]
    commands: tuple[CommandIssued, ...]
    """Those of what is said that want something done."""
    now_us: int
    """The world's time, which no clock in it has to show."""
    excused_us: int
    """By how much the world, not the session, may have been late so far."""
    moment: Moment
    client_id: str = ""
    """Who was connected to the owner when it took the input."""
    heard: Heard | None = None
    """Of the playback that ends with this step, if any of it was played."""


def type_of(event: Event) -> str:
    """What kind of event it is, as the log names it."""
    return str(event.type)  # type: ignore[attr-defined]
