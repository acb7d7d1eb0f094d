"""Checks invariants that hold in every log, under any reducer version: for `orch replay --check` and `orch verify`.

The checks read the log alone and never call the reducer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from unicodedata import category, decomposition, normalize

from events import derived, inputs
from events.derived import CommandIssued
from events.envelope import Derived, Event, Input, Result
from orchestrator.session.commands import OF_THE_TURN, OUTSTANDING, PLAYS, STAGES, WITHDRAWALS

_ALWAYS_SAID = "#%&*@/"
_NEVER_SAID = dict.fromkeys(map(ord, "´`~〜〰ʼ"), "'") | dict.fromkeys(
    [
        *(0xAD, 0x61C, 0x200B, 0x200E, 0x200F, 0x2060, 0xFE0E, 0xFE0F, 0xFEFF),
        *(*range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    ]
)
"""Characters that are not spoken, as a table for `str.translate`. Invisible layout characters are removed. Tildes, wave
dashes, and accents that serve as an apostrophe become an apostrophe, which `said` leaves out.
"""


@dataclass(frozen=True, slots=True)
class Broken:
    """A violated invariant: its id, the session, and the version of the step's input."""

    invariant: str
    session_id: str
    version: int
    message: str


@dataclass(slots=True)
class LogFacts:
    """Facts of a session's log so far, collected independently of `evolve`."""

    version: int = 0
    at_us: int = 0
    phase: str = "NEW"
    turn_is_open: bool = False
    turn_text: str = ""
    guess_text: str = ""
    """Text of the last question asked before a turn (speculation)."""
    answered: tuple[str, str] = ("", "")
    """(answer, question): the last answer to an outstanding AnswerQuestion, and the text of this question."""
    texts: tuple[str, ...] = ()
    """The texts of the last answer, from ANSWER_TEXT events; empty: the answer came as a whole."""
    outstanding: dict[str, CommandIssued] = field(default_factory=dict)


class Invariants:
    """Checks the steps of a recording in order and collects violations in `broken`."""

    def __init__(self) -> None:
        self._books: dict[str, LogFacts] = {}
        self.broken: list[Broken] = []

    def look(self, step: Sequence[Event]) -> None:
        """Check one step: an input and the events derived from it."""
        session_id = step[0].session_id
        book = self._books.setdefault(session_id, LogFacts())
        for invariant, check in CHECKS:
            for message in check(book, step):
                self.broken.append(Broken(invariant, session_id, step[0].version, message))
        for event in step:
            _note(book, event)


def _note(book: LogFacts, event: Event) -> None:
    book.version, book.at_us = event.version, event.at_us
    match event:
        case derived.StateChanged():
            book.phase = event.to_phase
        case derived.TurnStarted():
            book.turn_is_open, book.turn_text = True, event.text
        case derived.TurnEnded():
            book.turn_is_open = False
        case CommandIssued():
            _issue(book, event)
        case inputs.AnswerText(index=index) if event.command_id in book.outstanding and index == len(book.texts):
            book.texts = (*book.texts, event.text)  # the reducer rejects a text with another index
            book.answered = "".join(book.texts), str(book.outstanding[event.command_id].payload.get("text", ""))
        case inputs.RagAnswered() if event.cause and event.command_id in book.outstanding:
            asked = book.outstanding.pop(event.command_id)
            book.answered = "".join(book.texts) or event.answer, str(asked.payload.get("text", ""))
        case Result() if event.is_last and event.cause:  # a result without a cause is stale
            book.outstanding.pop(event.command_id, None)


def _issue(book: LogFacts, event: CommandIssued) -> None:
    book.outstanding.pop(event.retry_of, None)
    if event.name in OUTSTANDING:
        book.outstanding[event.command_id] = event
    if event.name == "AnswerQuestion" and not event.retry_of:
        book.texts = ()
    if event.name == "AnswerQuestion" and not book.turn_is_open:
        book.guess_text = str(event.payload.get("text", ""))
    _withdraw(book, event)


def _withdraw(book: LogFacts, event: CommandIssued) -> None:
    if event.name in WITHDRAWALS:
        book.outstanding.pop(str(event.payload.get("command_id")), None)
    gone = [
        command_id
        for command_id, command in book.outstanding.items()
        if (event.name == "CancelTask" and command.name in OF_THE_TURN)
        or (event.name == "StopPlayback" and command.name in PLAYS and command.target == event.target)
    ]
    for command_id in gone:
        del book.outstanding[command_id]


def versions_count_up(book: LogFacts, step: Sequence[Event]) -> Iterator[str]:
    """Yield violations of I-1: versions are 1..n without gaps, and time never goes back."""
    for due, event in enumerate(step, book.version + 1):
        if event.version != due:
            yield f"version {event.version} where {due} is due"
        if event.at_us < book.at_us:
            yield f"time goes back by {book.at_us - event.at_us} us"


def turns_follow_each_other(book: LogFacts, step: Sequence[Event]) -> Iterator[str]:
    """Yield violations of I-4: a turn starts only when no turn is open, and ends once. A stage runs at most once at a
    time, and so does a tool call.
    """
    is_open = book.turn_is_open
    for event in step:
        if isinstance(event, derived.TurnStarted | derived.TurnEnded):
            if is_open == isinstance(event, derived.TurnStarted):
                yield f"{event.type} while {'a' if is_open else 'no'} turn is open"
            is_open = isinstance(event, derived.TurnStarted)
    after = LogFacts(outstanding=dict(book.outstanding))
    for event in step:
        _note(after, event)
    asked = [
        (command.name, "" if command.name in OF_THE_TURN else command.target)
        for command in after.outstanding.values()
        if command.name in STAGES
    ]
    if len(set(asked)) != len(asked):
        yield f"outstanding at once: {', '.join(name for name, _ in asked)}"


def an_answer_is_given_to_its_question(book: LogFacts, step: Sequence[Event]) -> Iterator[str]:
    """Yield violations of I-5: the question of a turn is the user's words, and the turn uses the answer to this
    question. The question of a speculation may have other punctuation and other capital letters (`said`).
    """
    if not any(isinstance(event, derived.TurnStarted | derived.ProcessingComplete) for event in step):
        return
    turn_text, (answer, question) = book.turn_text, book.answered
    after = replace(book, outstanding=dict(book.outstanding), answered=("", ""))
    for event in step:
        _note(after, event)
        if isinstance(event, inputs.AnswerText | inputs.RagAnswered) and after.answered[1]:
            answer, question = after.answered
        elif isinstance(event, derived.TurnStarted):
            turn_text = event.text
            if event.speculation and said(book.guess_text) != said(turn_text):
                yield f"{turn_text!r} is answered with what was asked about {book.guess_text!r}"
        elif isinstance(event, CommandIssued) and event.name == "AnswerQuestion" and after.turn_is_open:
            if event.payload.get("text") != turn_text:
                yield f"{event.payload.get('text')!r} is asked in the turn of {turn_text!r}"
        elif isinstance(event, derived.ProcessingComplete):
            is_its_answer = event.answer.startswith(answer) if after.texts else event.answer == answer
            is_right = event.fallback or (is_its_answer and said(question) == said(turn_text))
            if not is_right:
                yield f"{turn_text!r} gets the answer to {question!r}"


def said(text: str) -> list[str]:
    """Return the spoken characters of a text, in lower case. Two texts with equal lists have the same words. Spoken are
    letters, combining marks such as accents, numbers, symbols such as + and %, and before a digit also a minus, point,
    comma or colon.
    """
    # not the reducer's own comparison: the check must be independent of the reducer
    told = normalize("NFD", text.translate(_NEVER_SAID)).translate(_NEVER_SAID)
    plain = "".join(char if _is_raised(char) else normalize("NFKD", char) for char in told)
    folded = normalize("NFD", plain.casefold()).translate(_NEVER_SAID)
    chars = ["-" if char == "\u2212" or category(char) == "Pd" else char for char in folded]
    around = zip(["", *chars], chars, [*chars[1:], ""], strict=False)
    return [char for before, char, after in around if _is_said(before, char, after)]


def _is_raised(char: str) -> bool:
    """Whether a character is superscript, subscript or a fraction. `said` must not make 2² equal to 22."""
    return decomposition(char).startswith(("<super>", "<sub>", "<fraction>"))


def _is_said(before: str, char: str, after: str) -> bool:
    if char in "-.,:":
        return after.isdecimal() and (char == "-" or before not in (".", ",", ":"))
    return char in _ALWAYS_SAID or category(char)[0] in "LMNS"


def an_interruption_stops_the_agent(book: LogFacts, step: Sequence[Event]) -> Iterator[str]:
    """Yield violations of I-7: if the user interrupts the agent, the same step stops the running playback."""
    if any(isinstance(event, derived.UserInterrupted) for event in step):
        playing = {c.target for c in book.outstanding.values() if c.name == "Speak"}
        stopped = {e.target for e in step if isinstance(e, CommandIssued) and e.name == "StopPlayback"}
        if playing - stopped:
            yield f"{', '.join(sorted(playing - stopped))} plays on"


def timers_fire_when_due(book: LogFacts, step: Sequence[Event]) -> Iterator[str]:
    """Yield violations of I-9 (ORCH1008): no timer fires early; no command is outstanding after the session ends."""
    event = step[0]
    counts = isinstance(event, inputs.TimerFired) and event.cause
    armed = book.outstanding.get(event.command_id) if counts else None  # type: ignore[attr-defined]
    if armed is not None:
        due_us = armed.payload.get("due_at_us")
        if not isinstance(due_us, int):
            yield f"timer {armed.target} was armed for no time"
        elif event.at_us < due_us:
            yield f"timer {armed.target} fires {due_us - event.at_us} us early"
    if isinstance(step[-1], derived.SessionEnded):
        after = LogFacts(outstanding=dict(book.outstanding))
        for said in step:
            _note(after, said)
        if after.outstanding:
            yield f"outstanding after the end: {', '.join(after.outstanding)}"


def commands_are_unique(book: LogFacts, step: Sequence[Event]) -> Iterator[str]:
    """Yield violations of I-10: command ids are unique, and only outstanding commands are cancelled."""
    seen = set(book.outstanding)
    for event in step:
        if isinstance(event, CommandIssued):
            if event.command_id in seen:
                yield f"{event.command_id} is there twice"
            seen.add(event.command_id)
            cancelled = event.payload.get("command_id") if event.name in WITHDRAWALS else None
            if cancelled is not None and str(cancelled) not in seen:
                yield f"{event.name} of {cancelled}, which is not outstanding"


def the_end_is_the_end(book: LogFacts, step: Sequence[Event]) -> Iterator[str]:
    """Yield violations of I-11: after ENDED, every input is rejected."""
    if book.phase == "ENDED" and any(not isinstance(event, derived.EventRejected) for event in step[1:]):
        yield "something is decided after the end"


def changes_join(book: LogFacts, step: Sequence[Event]) -> Iterator[str]:
    """Yield violations of I-12 (ORCH1005): each phase change starts from the current phase."""
    phase = book.phase
    for event in step:
        if isinstance(event, derived.StateChanged):
            if event.from_phase != phase:
                yield f"leaves {event.from_phase} where the phase is {phase}"
            phase = event.to_phase


def causes_come_before(book: LogFacts, step: Sequence[Event]) -> Iterator[str]:  # noqa: ARG001 - same signature as the other checks
    """Yield violations of I-18: a step's first event is its only input, and the cause of all its derived events."""
    for event in step[1:]:
        if isinstance(event, Derived) and event.cause != step[0].event_id:
            yield f"version {event.version} names {event.cause!r} as its cause, not its input"
    if not isinstance(step[0], Input):
        yield "a step without an input"


CHECKS: tuple[tuple[str, Callable[[LogFacts, Sequence[Event]], Iterator[str]]], ...] = (
    ("I-1", versions_count_up),
    ("I-4", turns_follow_each_other),
    ("I-5", an_answer_is_given_to_its_question),
    ("I-7", an_interruption_stops_the_agent),
    ("I-9", timers_fire_when_due),
    ("I-10", commands_are_unique),
    ("I-11", the_end_is_the_end),
    ("I-12", changes_join),
    ("I-18", causes_come_before),
)
