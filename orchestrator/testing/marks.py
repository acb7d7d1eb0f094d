"""Marks of rare situations: a simulation that never reaches one of them has not tested it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from events import inputs
from events.codec import INPUTS
from events.derived import CommandIssued, EventRejected, ProcessingComplete, StateChanged, TurnStarted
from events.envelope import Event, Result
from orchestrator.testing.log_book import Answer, Book
from orchestrator.testing.simulated_steps import Seen


@dataclass(frozen=True, slots=True)
class Here:
    """A step, and the book before it."""

    book: Book
    event: Any
    """The input."""
    said: tuple[Event, ...]

    @property
    def rejected(self) -> bool:
        return any(isinstance(event, EventRejected) for event in self.said)

    @property
    def answer(self) -> Answer:
        return self.book.answer or Answer("", "")

    @property
    def over(self) -> str:
        """How the command of a result ended before; empty: it did not."""
        return self.book.closed.get(self.event.command_id, "")

    @property
    def filler_stopped(self) -> bool:
        return any(command.name == "StopPlayback" and "filler" in command.target for command in self.commands)

    @property
    def commands(self) -> list[CommandIssued]:
        return [event for event in self.said if isinstance(event, CommandIssued)]

    def moves_to(self, phase: str) -> bool:
        return any(isinstance(event, StateChanged) and event.to_phase == phase for event in self.said)

    def says(self, kind: type[Event]) -> bool:
        return any(isinstance(event, kind) for event in self.said)

    def fails(self, name: str) -> bool:
        """The input is the failure of an outstanding command of that name."""
        command = self.book.what_it_answers(self.event)
        return command is not None and command.name == name


Predicate = Callable[[Here], bool]


def reached(book: Book, step: Seen) -> set[str]:
    """The marks that a step reaches; the book is the one before it."""
    here = Here(book, step.input, step.said)
    return {name for name, holds in _BY_INPUT.get(type(step.input), ()) if holds(here)}


def _over(how: str) -> Predicate:
    return lambda here: here.over == how


def _fires(timer: str, *, late: bool = False) -> Predicate:
    return lambda here: here.event.target == timer and here.rejected == late


def _counts_in(phase: str) -> Predicate:
    return lambda here: here.book.phase == phase and not here.rejected


def _comes_in(phase: str) -> Predicate:
    return lambda here: here.book.phase == phase


def _fails(name: str) -> Predicate:
    return lambda here: here.fails(name)


def _asked_again(name: str) -> Predicate:
    return lambda here: any(command.retry_of and command.name == name for command in here.commands)


_PHASES = ("IDLE", "LISTENING", "THINKING", "SPEAKING", "INTERRUPT")
_TIMERS = ("intent_deadline", "answer_deadline", "tts_deadline", "playback_deadline", "interrupt_pause", "endpoint")
_FINAL: dict[str, Predicate] = {
    **{f"final in {phase}": _comes_in(phase) for phase in (*_PHASES, "ENDED")},
    "final without words": lambda here: not here.event.text.strip(),
    "second final in one INTERRUPT": lambda here: here.book.phase == "INTERRUPT" and bool(here.book.held),
    "typed over an answer": lambda here: here.book.phase == "SPEAKING" and here.event.via == "text",
    "superseded while the filler plays": lambda here: here.book.phase == "THINKING" and here.filler_stopped,
    "superseded when the intent is known": lambda here: (
        here.book.phase == "THINKING" and here.says(TurnStarted) and not here.book.is_outstanding("ClassifyIntent")
    ),
}
_INTERRUPTS: dict[str, Predicate] = {
    "before the first chunk": lambda here: here.moves_to("INTERRUPT") and not here.answer.chunks,
    "in the middle of synthesis": lambda here: (
        here.moves_to("INTERRUPT") and bool(here.answer.chunks) and not here.answer.complete
    ),
    "after synthesis": lambda here: here.moves_to("INTERRUPT") and here.answer.complete,
}
_BARGE_IN: dict[str, Predicate] = {
    **{f"barge-in {when}": holds for when, holds in _INTERRUPTS.items()},
    "barge-in about another playback": lambda here: here.book.phase == "SPEAKING" and here.rejected,
    "barge-in when nothing plays": lambda here: here.book.phase == "LISTENING" and here.rejected,
    "barge-in stops a filler": lambda here: here.filler_stopped,
}
_SPEECH: dict[str, Predicate] = {
    **{f"speech {when}": holds for when, holds in _INTERRUPTS.items()},
    "speech goes on before the endpoint": lambda here: (
        here.book.phase == "LISTENING" and "endpoint" in here.book.timers()
    ),
    "speech in INTERRUPT": _comes_in("INTERRUPT"),
}
_RESULT: dict[str, Predicate] = {
    "result after its task was cancelled": _over("cancelled"),
    "result after the end": _comes_in("ENDED"),
    "result of a lost owner after its retry": _over("retried"),
    "result names something wrong": lambda here: here.event.command_id in here.book.outstanding and here.rejected,
    "result is repeated": _over("answered"),
    "result of an unknown command": lambda here: here.event.command_id not in here.book.issued,
}
_JOIN: dict[str, Predicate] = {
    "withdrawn stage answers": _over("withdrawn"),
    "superseded stage answers": lambda here: here.book.phase == "THINKING" and here.over == "cancelled",
}
_ANSWERED: dict[str, Predicate] = {
    "answer comes first": lambda here: not here.rejected and not here.moves_to("SPEAKING"),
    "answer comes last": lambda here: here.moves_to("SPEAKING"),
}
_PLAYBACK_DONE: dict[str, Predicate] = {
    "answer played to its end": lambda here: here.moves_to("LISTENING"),
    "late playback_done of an answer": lambda here: "answer" in here.event.playback_id and here.over == "stopped",
    "filler played to its end": lambda here: "filler" in here.event.playback_id and not here.rejected,
    "late playback_done of a filler": lambda here: "filler" in here.event.playback_id and here.rejected,
    "playback confirmed by a timer": lambda here: here.event.confirmed_by == "timer" and not here.rejected,
    "answer without any audio": lambda here: here.moves_to("LISTENING") and not here.answer.chunks,
}
_RESUMED: dict[str, Predicate] = {
    **{f"resumed in {phase}": _counts_in(phase) for phase in _PHASES},
    "resumed with words that wait": lambda here: bool(here.book.held),
    "resumed with a filler": lambda here: here.filler_stopped,
    "resumed in the middle of an answer": lambda here: here.answer.position_ms > 0,
    "resumed after synthesis": lambda here: here.answer.complete,
    "resumed with an endpoint": lambda here: "endpoint" in here.book.timers(),
    "resumed twice": lambda here: here.book.resumed,
    **{f"{name} is asked again": _asked_again(name) for name in ("ClassifyIntent", "AnswerQuestion", "Speak")},
}
_FAILED: dict[str, Predicate] = {
    **{f"{name} fails": _fails(name) for name in ("ClassifyIntent", "AnswerQuestion", "PlayFiller")},
    "speech fails before the first chunk": lambda here: here.fails("Speak") and not here.answer.chunks,
    "speech fails in its middle": lambda here: here.fails("Speak") and bool(here.answer.chunks),
}
_TIMER: dict[str, Predicate] = {
    **{f"{timer} fires": _fires(timer) for timer in _TIMERS},
    **{f"{timer} fires late": _fires(timer, late=True) for timer in _TIMERS},
    "nobody came back": lambda here: here.event.target == "reconnect" and here.moves_to("ENDED"),
    "held words open a turn": lambda here: here.says(TurnStarted),
    "intent given up, answer there": lambda here: (
        here.event.target == "intent_deadline" and here.says(ProcessingComplete)
    ),
}
_ROWS: dict[type[Event], dict[str, Predicate]] = {
    inputs.BargeIn: _BARGE_IN,
    inputs.ClientConnected: {f"client back in {phase}": _comes_in(phase) for phase in _PHASES[1:]},
    inputs.ClientDisconnected: {
        "replaced client leaves": lambda here: here.book.client_id not in ("", here.event.client_id),
        **{f"client leaves in {phase}": _comes_in(phase) for phase in _PHASES[1:]},
    },
    inputs.HandlerAttached: {f"handler attached in {phase}": _comes_in(phase) for phase in _PHASES[1:]},
    inputs.HandlerDetached: {
        "handler lost in SPEAKING": _counts_in("SPEAKING"),
        "replaced handler ends": lambda here: here.rejected,
    },
    inputs.IntentResolved: _JOIN,
    inputs.PlaybackDone: _PLAYBACK_DONE,
    inputs.RagAnswered: {**_JOIN, **_ANSWERED},
    inputs.ServiceFailed: _FAILED,
    inputs.SessionCloseRequested: {f"closed in {phase}": _counts_in(phase) for phase in _PHASES[1:]},
    inputs.SessionResumed: _RESUMED,
    inputs.SpeechStarted: _SPEECH,
    inputs.SttFinal: _FINAL,
    inputs.TimerFired: _TIMER,
    inputs.TtsChunkReady: {"late chunk": lambda here: here.rejected},
}


def _by_input() -> dict[type[Event], tuple[tuple[str, Predicate], ...]]:
    rows = {kind: _ROWS.get(kind, {}) | (_RESULT if issubclass(kind, Result) else {}) for kind in INPUTS.values()}
    return {kind: tuple(marks.items()) for kind, marks in rows.items()}


_BY_INPUT = _by_input()
_BY_WORLD = (
    *(f"duplicate {name}" for name in INPUTS),
    *("client replaced", "clock went back", "clock went forward", "crash between commit and effects", "handler lost"),
    *("nonsense", "owner lost by crash", "owner lost by handover", "owner lost by zombie"),
)
"""Those that leave no trace in the log."""
MARKS: frozenset[str] = frozenset(name for row in _BY_INPUT.values() for name, _ in row) | frozenset(_BY_WORLD)
