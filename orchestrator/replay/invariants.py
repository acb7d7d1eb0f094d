"""What must hold in every log, whatever the rules of its time were: `orch replay --check` and `orch verify`.

The ids are those of the promises (docs/replay.md lists them). Nothing here asks the reducer: a log is looked at alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from events import derived, inputs
from events.derived import CommandIssued
from events.envelope import Derived, Event, Input, Result
from orchestrator.session.commands import OUTSTANDING, STAGES
from orchestrator.session.evolve import TERMINAL


@dataclass(frozen=True, slots=True)
class Broken:
    """An invariant that does not hold, and where that shows."""

    invariant: str
    session_id: str
    version: int
    message: str


@dataclass(slots=True)
class Book:
    """What a log has said so far, kept without the project's own fold."""

    version: int = 0
    at_us: int = 0
    phase: str = "NEW"
    turn_is_open: bool = False
    outstanding: dict[str, CommandIssued] = field(default_factory=dict)


class Invariants:
    """Looks at the steps of a recording, one by one."""

    def __init__(self) -> None:
        self._books: dict[str, Book] = {}
        self.broken: list[Broken] = []

    def look(self, step: Sequence[Event]) -> None:
        """One step: an input and what was said about it."""
        session_id = step[0].session_id
        book = self._books.setdefault(session_id, Book())
        for invariant, check in CHECKS:
            for message in check(book, step):
                self.broken.append(Broken(invariant, session_id, step[0].version, message))
        for event in step:
            _note(book, event)


def _note(book: Book, event: Event) -> None:
    book.version, book.at_us = event.version, event.at_us
    match event:
        case derived.StateChanged():
            book.phase = event.to_phase
        case derived.TurnStarted() | derived.TurnEnded():
            book.turn_is_open = isinstance(event, derived.TurnStarted)
        case CommandIssued():
            book.outstanding.pop(event.retry_of, None)
            if event.name in OUTSTANDING:
                book.outstanding[event.command_id] = event
            _withdraw(book, event)
        case Result() if type(event) in TERMINAL and event.cause:  # without one it was stale
            book.outstanding.pop(event.command_id, None)


def _withdraw(book: Book, event: CommandIssued) -> None:
    if event.name in ("CancelTimer", "CancelStage"):
        book.outstanding.pop(str(event.payload["command_id"]), None)
    gone = [
        command_id
        for command_id, command in book.outstanding.items()
        if (event.name == "CancelTask" and command.name in STAGES)
        or (event.name == "StopPlayback" and command.name in ("Speak", "PlayFiller") and command.target == event.target)
    ]
    for command_id in gone:
        del book.outstanding[command_id]


def versions_count_up(book: Book, step: Sequence[Event]) -> Iterator[str]:
    """I-1: versions are 1..n without gaps, and time never goes back."""
    for due, event in enumerate(step, book.version + 1):
        if event.version != due:
            yield f"version {event.version} where {due} is due"
        if event.at_us < book.at_us:
            yield f"time goes back by {book.at_us - event.at_us} us"


def turns_follow_each_other(book: Book, step: Sequence[Event]) -> Iterator[str]:
    """I-4: a turn starts when none is open, and ends once; of each stage at most one runs."""
    is_open = book.turn_is_open
    for event in step:
        if isinstance(event, derived.TurnStarted | derived.TurnEnded):
            if is_open == isinstance(event, derived.TurnStarted):
                yield f"{event.type} while {'a' if is_open else 'no'} turn is open"
            is_open = isinstance(event, derived.TurnStarted)
    after = Book(outstanding=dict(book.outstanding))
    for event in step:
        _note(after, event)
    names = [command.name for command in after.outstanding.values() if command.name in STAGES]
    if len(set(names)) != len(names):
        yield f"outstanding at once: {', '.join(names)}"


def an_interruption_stops_the_agent(book: Book, step: Sequence[Event]) -> Iterator[str]:
    """I-7: the step in which the user takes the floor stops what was being played."""
    if any(isinstance(event, derived.UserInterrupted) for event in step):
        playing = {c.target for c in book.outstanding.values() if c.name == "Speak"}
        stopped = {e.target for e in step if isinstance(e, CommandIssued) and e.name == "StopPlayback"}
        if playing - stopped:
            yield f"{', '.join(sorted(playing - stopped))} plays on"


def timers_fire_when_due(book: Book, step: Sequence[Event]) -> Iterator[str]:
    """I-9 (ORCH1008): a timer that counts was armed, and does not fire before it is due; none outlives the session."""
    event = step[0]
    counts = isinstance(event, inputs.TimerFired) and event.cause
    armed = book.outstanding.get(event.command_id) if counts else None  # type: ignore[attr-defined]
    if armed is not None and event.at_us < int(str(armed.payload.get("due_at_us", 0))):
        yield f"timer {armed.target} fires {int(str(armed.payload['due_at_us'])) - event.at_us} us early"
    if isinstance(step[-1], derived.SessionEnded):
        after = Book(outstanding=dict(book.outstanding))
        for said in step:
            _note(after, said)
        if after.outstanding:
            yield f"outstanding after the end: {', '.join(after.outstanding)}"


def commands_are_unique(book: Book, step: Sequence[Event]) -> Iterator[str]:
    """I-10: a command id is there once, and what was cancelled was outstanding."""
    seen = set(book.outstanding)
    for event in step:
        if isinstance(event, CommandIssued):
            if event.command_id in seen:
                yield f"{event.command_id} is there twice"
            seen.add(event.command_id)
            cancelled = event.payload.get("command_id") if event.name in ("CancelTimer", "CancelStage") else None
            if cancelled is not None and cancelled not in seen:
                yield f"{event.name} of {cancelled}, which is not outstanding"


def the_end_is_the_end(book: Book, step: Sequence[Event]) -> Iterator[str]:
    """I-11: after ENDED nothing is decided any more."""
    if book.phase == "ENDED" and any(not isinstance(event, derived.EventRejected) for event in step[1:]):
        yield "something is decided after the end"


def changes_join(book: Book, step: Sequence[Event]) -> Iterator[str]:
    """I-12 (ORCH1005): each change of phase begins where the last one led."""
    phase = book.phase
    for event in step:
        if isinstance(event, derived.StateChanged):
            if event.from_phase != phase:
                yield f"leaves {event.from_phase} where the phase is {phase}"
            phase = event.to_phase


def causes_come_before(book: Book, step: Sequence[Event]) -> Iterator[str]:  # noqa: ARG001 - as the others
    """I-18: what was said names its input as the cause; a step has one input, at its head."""
    for event in step[1:]:
        if isinstance(event, Derived) and event.cause != step[0].event_id:
            yield f"version {event.version} names {event.cause!r} as its cause, not its input"
    if not isinstance(step[0], Input):
        yield "a step without an input"


CHECKS: tuple[tuple[str, Callable[[Book, Sequence[Event]], Iterator[str]]], ...] = (
    ("I-1", versions_count_up),
    ("I-4", turns_follow_each_other),
    ("I-7", an_interruption_stops_the_agent),
    ("I-9", timers_fire_when_due),
    ("I-10", commands_are_unique),
    ("I-11", the_end_is_the_end),
    ("I-12", changes_join),
    ("I-18", causes_come_before),
)
