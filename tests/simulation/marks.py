"""Marks of rare situations: a simulation that never reaches one of them has not tested it.

Here are those of the one path and its faults; what policies lead to is in policy_marks.py.
"""

from itertools import count

from events import inputs
from events.codec import INPUTS
from events.derived import ProcessingComplete, TurnStarted
from events.envelope import Event, Result
from orchestrator.simulation.simulate import Simulated, simulate
from orchestrator.simulation.steps import Seen
from tests.simulation import policy_marks
from tests.simulation.log_book import Book
from tests.simulation.mark_words import PHASES, Here, Predicate, comes_in, counts_in, fails, fires, over


def reached(run: Simulated) -> set[str]:
    """All marks that a simulated conversation reaches."""
    marks, book = set(run.marks), Book()
    for step in run.seen:
        note(marks, book, step)
        book.absorb(step)
    return marks


def first_seed(mark: str) -> int:
    """The first seed that reaches a mark: python -c 'from tests.simulation.marks import *; print(first_seed("…"))'."""
    return next(seed for seed in count() if mark in reached(simulate(seed, replayed=False)))


def note(marks: set[str], book: Book, step: Seen) -> None:
    """Add the marks that a step reaches; the book is the one before it."""
    here = Here(book, step.input, step.said, step.commands)
    for name, holds in _BY_INPUT[type(step.input)]:
        if name not in marks and holds(here):
            marks.add(name)


def _asked_again(name: str) -> Predicate:
    return lambda here: any(command.retry_of and command.name == name for command in here.commands)


_TIMERS = ("intent_deadline", "answer_deadline", "tts_deadline", "playback_deadline", "interrupt_pause", "endpoint")
_FINAL: dict[str, Predicate] = {
    **{f"final in {phase}": comes_in(phase) for phase in (*PHASES, "ENDED")},
    "final without words": lambda here: not here.event.text.strip(),
    "second final in one INTERRUPT": lambda here: here.book.phase == "INTERRUPT" and bool(here.book.held),
    "typed over an answer": lambda here: here.book.phase == "SPEAKING" and here.event.via == "text",
    "superseded while the filler plays": lambda here: here.book.phase == "THINKING" and here.stops("filler"),
    "superseded when the intent is known": lambda here: (
        here.book.phase == "THINKING" and here.says(TurnStarted) and not here.book.is_outstanding("ClassifyIntent")
    ),
}
_BARGE_IN: dict[str, Predicate] = {
    "barge-in before the first chunk": lambda here: here.moves_to("INTERRUPT") and not here.answer.chunks,
    "barge-in in the middle of synthesis": lambda here: (
        here.moves_to("INTERRUPT") and bool(here.answer.chunks) and not here.answer.complete
    ),
    "barge-in after synthesis": lambda here: here.moves_to("INTERRUPT") and here.answer.complete,
    "barge-in about another playback": lambda here: here.book.phase == "SPEAKING" and here.rejected,
    "barge-in when nothing plays": lambda here: here.book.phase == "LISTENING" and here.rejected,
    "barge-in stops a filler": lambda here: here.stops("filler"),
}
_SPEECH: dict[str, Predicate] = {
    "speech interrupts at once": lambda here: here.moves_to("INTERRUPT"),
    "speech goes on before the endpoint": lambda here: (
        here.book.phase == "LISTENING" and "endpoint" in here.book.timers
    ),
    "speech in INTERRUPT": comes_in("INTERRUPT"),
}
_RESULT: dict[str, Predicate] = {
    "result after its task was cancelled": over("cancelled"),
    "result after the end": comes_in("ENDED"),
    "result of a lost owner after its retry": over("retried"),
    "result names something wrong": lambda here: here.event.command_id in here.book.outstanding and here.rejected,
    "result is repeated": over("answered"),
    "result of an unknown command": lambda here: here.event.command_id not in here.book.issued,
}
_JOIN: dict[str, Predicate] = {
    "withdrawn stage answers": over("withdrawn"),
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
    **{f"resumed in {phase}": counts_in(phase) for phase in PHASES},
    "resumed with words that wait": lambda here: bool(here.book.held),
    "resumed with a filler": lambda here: here.stops("filler"),
    "resumed in the middle of an answer": lambda here: here.answer.position_ms > 0,
    "resumed after synthesis": lambda here: here.answer.complete,
    "resumed with an endpoint": lambda here: "endpoint" in here.book.timers,
    "resumed twice": lambda here: here.book.resumed,
    **{f"{name} is asked again": _asked_again(name) for name in ("ClassifyIntent", "AnswerQuestion", "Speak")},
}
_FAILED: dict[str, Predicate] = {
    **{f"{name} fails": fails(name) for name in ("ClassifyIntent", "AnswerQuestion", "PlayFiller")},
    "speech fails before the first chunk": lambda here: here.fails("Speak") and not here.answer.chunks,
    "speech fails in its middle": lambda here: here.fails("Speak") and bool(here.answer.chunks),
}
_TIMER: dict[str, Predicate] = {
    **{f"{timer} fires": fires(timer) for timer in _TIMERS},
    **{f"{timer} fires late": fires(timer, late=True) for timer in _TIMERS},
    "nobody came back": lambda here: here.event.target == "reconnect" and here.moves_to("ENDED"),
    "held words open a turn": lambda here: here.event.target == "interrupt_pause" and here.says(TurnStarted),
    "intent given up, answer there": lambda here: (
        here.event.target == "intent_deadline" and here.says(ProcessingComplete)
    ),
}
_ROWS: dict[type[Event], dict[str, Predicate]] = {
    inputs.BargeIn: _BARGE_IN,
    inputs.ClientConnected: {f"client back in {phase}": comes_in(phase) for phase in PHASES[1:]},
    inputs.ClientDisconnected: {
        "replaced client leaves": lambda here: here.book.client_id not in ("", here.event.client_id),
        **{f"client leaves in {phase}": comes_in(phase) for phase in PHASES[1:]},
    },
    inputs.HandlerAttached: {
        "spoken on over another call": lambda here: here.book.phase == "SPEAKING" and here.answer.from_ms > 0,
        **{f"handler attached in {phase}": comes_in(phase) for phase in PHASES[1:]},
    },
    inputs.HandlerDetached: {
        "handler lost in SPEAKING": counts_in("SPEAKING"),
        "replaced handler ends": lambda here: here.rejected,
    },
    inputs.IntentResolved: _JOIN,
    inputs.PlaybackDone: _PLAYBACK_DONE,
    inputs.RagAnswered: {**_JOIN, **_ANSWERED},
    inputs.ServiceFailed: _FAILED,
    inputs.SessionCloseRequested: {f"closed in {phase}": counts_in(phase) for phase in PHASES[1:]},
    inputs.SessionResumed: _RESUMED,
    inputs.SpeechStarted: _SPEECH,
    inputs.SttFinal: _FINAL,
    inputs.TimerFired: _TIMER,
    inputs.TtsChunkReady: {"late chunk": lambda here: here.rejected},
}


def _by_input() -> dict[type[Event], tuple[tuple[str, Predicate], ...]]:
    rows: dict[type[Event], dict[str, Predicate]] = {}
    for kind in INPUTS.values():
        rows[kind] = _ROWS.get(kind, {}) | policy_marks.ROWS.get(kind, {})
        rows[kind] |= _RESULT if issubclass(kind, Result) else {}
    return {kind: tuple(marks.items()) for kind, marks in rows.items()}


_BY_INPUT = _by_input()
_BY_WORLD = (
    *(f"duplicate {name}" for name in INPUTS if name != "PROVIDER_SWITCHED"),  # no decision looks at it
    *("client replaced", "clock went back", "clock went forward", "crash between commit and effects", "handler lost"),
    *("many producers", "more producers than a call has"),
    *("server's clock went back", "server's clock went forward", "server's clock set between two owners"),
    *("nonsense", "owner lost by crash", "owner lost by handover", "owner lost by zombie"),
)
"""Those that leave no trace in the log."""
MARKS: frozenset[str] = frozenset(name for row in _BY_INPUT.values() for name, _ in row) | frozenset(_BY_WORLD)
