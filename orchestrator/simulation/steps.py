"""Records each step as the simulated world saw it. Observers get no other data about the world."""

from dataclasses import dataclass
from unicodedata import normalize

from events.derived import CommandIssued
from events.envelope import Event, Input, PlaybackResult

STAGES = ("ClassifyIntent", "AnswerQuestion", "PlayFiller", "Speak")
PLAYS = tuple(sorted(PlaybackResult.answers))
"""The commands that ask a service, and those that play audio."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The world's state after the commands of a step were carried out."""

    audible: tuple[str, ...] = ()
    """Playbacks that can be heard."""
    handler_id: str = ""
    microphone: str = ""
    paused: tuple[str, ...] = ()
    """Playbacks that the player has paused."""
    running: tuple[tuple[str, str], ...] = ()
    """(name, target) of each effect and timer of the owner."""


@dataclass(frozen=True, slots=True)
class HeardPosition:
    """The true position of a playback, and how much the session's knowledge of it may differ (`doubt_ms`)."""

    position_ms: int
    doubt_ms: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One step as the world saw it."""

    input: Input
    said: tuple[Event, ...]
    commands: tuple[CommandIssued, ...]
    """The COMMAND_ISSUED events in `said`."""
    now_us: int
    """The world's time; the wall clocks of nodes and of Redis may differ from it."""
    excused_us: int
    """Delay so far that the world may have caused, not the session."""
    moment: Moment
    client_id: str = ""
    """The client connected to the owner when it took the input; empty: none."""
    set_us: int = 0
    """Possible error of the log's time so far, because the clock of Redis was set between two owners."""
    heard: HeardPosition | None = None
    """The playback that ends with this step; None: no playback ends, or it never began."""


def type_of(event: Event) -> str:
    """The event's type, as in the log."""
    return str(event.type)  # type: ignore[attr-defined]


def plain(text: str) -> list[str]:
    """The words of a text, without case and punctuation. Simulated words have no punctuation inside."""
    words = (word.strip(".,?! ") for word in normalize("NFC", text.casefold()).split())
    return [word for word in words if word]
