"""The words in which marks are said: a step, the book before it, and what holds of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from events.derived import CommandIssued, EventRejected, SessionEnded, StateChanged, TurnStarted
from events.envelope import Event
from tests.simulation.log_book import Answer, Book

PHASES = ("IDLE", "LISTENING", "THINKING", "SPEAKING", "INTERRUPT")


@dataclass(frozen=True, slots=True)
class Here:
    """A step, and the book before it."""

    book: Book
    event: Any
    """The input."""
    said: tuple[Event, ...]
    commands: tuple[CommandIssued, ...]

    @property
    def rejected(self) -> bool:
        return any(isinstance(event, EventRejected) for event in self.said)

    @property
    def reason(self) -> str:
        """Why the input is rejected; empty: it is not."""
        return next((event.reason for event in self.said if isinstance(event, EventRejected)), "")

    @property
    def answer(self) -> Answer:
        return self.book.answer or Answer("", "")

    @property
    def is_paused(self) -> bool:
        return self.answer.paused_us is not None

    @property
    def over(self) -> str:
        """How the command of a result ended before; empty: it did not."""
        return self.book.closed.get(self.event.command_id, "")

    @property
    def ends_as(self) -> str:
        """Why the session ends with this step; empty: it goes on."""
        return next((event.reason for event in self.said if isinstance(event, SessionEnded)), "")

    @property
    def turn_started(self) -> TurnStarted | None:
        return next((event for event in self.said if isinstance(event, TurnStarted)), None)

    def does(self, name: str, target: str = "") -> bool:
        """Whether a command of that name is issued, about something that is called so, or begins so."""
        return any(command.name == name and command.target.startswith(target) for command in self.commands)

    def stops(self, target: str) -> bool:
        return self.does("StopPlayback", target)

    def moves_to(self, phase: str) -> bool:
        return any(isinstance(event, StateChanged) and event.to_phase == phase for event in self.said)

    def says(self, kind: type[Event]) -> bool:
        return any(isinstance(event, kind) for event in self.said)

    def fails(self, name: str) -> bool:
        """The input is the failure of an outstanding command of that name."""
        command = self.book.what_it_answers(self.event)
        return command is not None and command.name == name


Predicate = Callable[[Here], bool]


def over(how: str) -> Predicate:
    return lambda here: here.over == how


def fires(timer: str, *, late: bool = False) -> Predicate:
    return lambda here: here.event.target == timer and here.rejected == late


def fires_in(timer: str, phase: str) -> Predicate:
    return lambda here: here.event.target == timer and not here.rejected and here.book.phase == phase


def counts_in(phase: str) -> Predicate:
    return lambda here: here.book.phase == phase and not here.rejected


def comes_in(phase: str) -> Predicate:
    return lambda here: here.book.phase == phase


def fails(name: str) -> Predicate:
    return lambda here: here.fails(name)


def outcomes(said: Iterable[Event], kind: type[Event]) -> list[str]:
    """How what is of this kind has ended, in this step."""
    return [str(event.outcome) for event in said if isinstance(event, kind)]  # type: ignore[attr-defined]
