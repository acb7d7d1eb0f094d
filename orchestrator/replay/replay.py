"""Runs the reducer over a recording's inputs, and compares every derived event and state hash with the recorded one.

Reads the recording once, line by line: memory grows with the number of sessions, not with the number of events.
Compares derived events as bytes, because the encoding is canonical.
"""

import pickle
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

from events.codec import BadEventError, decode, encoded
from events.derived import CommandIssued
from events.envelope import Event, Input
from events.inputs import SessionOpened, SessionResumed
from events.recording import BadRecordingError, Header, Recording
from orchestrator.replay.divergence import Divergence, at, first_difference
from orchestrator.replay.rules import RULES
from orchestrator.safe_text import one_line
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.evolve import apply
from orchestrator.session.reducer import Step, reduce
from orchestrator.session.state import State, why_unreadable

REDUCER_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Exceptions that a defective reducer, or `evolve` on an edited log, may raise."""
KEPT_LIVE = 256
"""Number of sessions whose states are kept as objects: the sessions used last. The other states are stored pickled."""
Listener = Callable[[State, Step], None]
"""A function of (state before a step, replayed step). It is called for each step that does not diverge."""


@dataclass(slots=True)
class Segment:
    """The part of a session's log that one reducer version recorded."""

    recorded_by: str
    first_version: int
    last_version: int = 0
    divergence: Divergence | None = None


@dataclass(slots=True)
class Session:
    """Progress of the replay of one session."""

    session_id: str
    opened_at_us: int
    segments: list[Segment] = field(default_factory=list)
    last: tuple[Event, ...] = ()
    """The events of the last step. Empty after `pack`, which stores the session in less memory."""
    follows: bool = False
    """Whether recorded events are folded without a comparison. True from a divergence to the end of its segment, unless
    `keep_going`.
    """
    is_lost: bool = False
    """Whether `evolve` failed on the recorded events. The later events of the session are then only counted."""
    _live: State | None = field(default_factory=State)
    _packed: bytes = b""

    @property
    def state(self) -> State:
        if self._live is not None:
            return self._live
        state: State = pickle.loads(self._packed)  # noqa: S301 - `pack` wrote these bytes
        return state

    @state.setter
    def state(self, state: State) -> None:
        self._live = state

    def pack(self) -> None:
        """Pickle the state and drop the last step, to save memory. A file may hold any number of sessions."""
        self.segments[-1].last_version = self.state.version
        self._packed, self._live, self.last = pickle.dumps(self.state), None, ()


@dataclass(slots=True)
class Replay:
    """Result of a replay so far."""

    name: str
    header: Header
    sessions: dict[str, Session] = field(default_factory=dict)
    divergences: list[Divergence] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    """Replayed events; only `replay()` fills this list."""
    size: int = 0
    """Number of events."""
    inputs: int = 0
    commands: int = 0
    line: int = 1
    """Number of the last line read."""

    @property
    def divergence(self) -> Divergence | None:
        return self.divergences[0] if self.divergences else None

    @property
    def states(self) -> dict[str, State]:
        return {name: session.state for name, session in self.sessions.items()}


def replay(recording: Recording, *, keep_going: bool = False) -> Replay:
    """Replay a recording in memory and keep the replayed events. Raises BadRecordingError, as `Replayer.run` does.

    `keep_going`: after a divergence, compare the later steps too, starting from the recorded state. Without
    `keep_going`, the rest of the session's segment is not compared.
    """
    replayer = Replayer(recording.header, recording.name, keep_going=keep_going)
    replayer.listen = lambda _, step: replayer.found.events.extend(step.events)
    return replayer.run(recording.lines)


def events_of(recording: Recording) -> list[Event]:
    """Return the events of a recording. If the recording has inputs alone, today's reducer derives the other events.
    Raises BadRecordingError if the recording cannot be read.
    """
    if not recording.header.derived:
        return replay(recording).events
    try:
        return [*recording.events()]
    except BadRecordingError as error:
        raise BadRecordingError(f"{error}{by_newer(recording.header)}") from error


def by_newer(header: Header) -> str:
    """Return the end of an error message about a bad line: that a newer orch wrote the recording. If none did: ""."""
    is_newer = _numbers(header.reducer_version) > _numbers(REDUCER_VERSION)
    return f"; a newer orch, with reducer {one_line(header.reducer_version)[:40]}, wrote it" if is_newer else ""


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,9}", version)]


class Replayer:
    """Replays the lines of one recording. Compares the steps of each segment of a session, up to the segment's first
    divergence.

    `keep_going`: compare all steps; after a divergence, continue from the recorded state.
    `is_incomplete`: the recording may end in the middle of a step, because its writer crashed.
    """

    def __init__(self, header: Header, name: str, *, keep_going: bool = False, is_incomplete: bool = False) -> None:
        self.found = Replay(name, header)
        self.listen: Listener | None = None
        """Called with each step that does not diverge."""
        self.look: Callable[[Sequence[Event]], None] | None = None
        """Called with each recorded step or, if the recording has inputs alone, with each replayed step."""
        self._keeps_going = keep_going
        self._is_incomplete = is_incomplete
        self._source: Iterator[bytes] = iter(())
        self._ahead: Iterator[bytes] = iter(())
        """Lines read ahead of the current step."""
        self._lines: Iterator[bytes] = iter(())
        """The lines to read next: lines that were put back (`_ahead`), then the rest of the recording (`_source`)."""
        self._is_over = False
        self._session: Session | None = None
        """The session of the current step."""
        self._recent: dict[str, Session] = {}

    def run(self, lines: Iterable[bytes]) -> Replay:
        """Replay all lines. Raises BadRecordingError, naming the line, if the lines are not a readable log."""
        found = self.found
        self._source = self._lines = iter(lines)
        try:
            while (line := next(self._lines, None)) is not None:
                found.line += 1
                self._step(line)
        except BadEventError as error:
            raise BadRecordingError(f"{found.name}, line {found.line}: {error}{by_newer(found.header)}") from error
        for session in self._recent.values():
            session.segments[-1].last_version = session.state.version
        return found

    def _step(self, line: bytes) -> None:
        """Replay the step that starts with this line. Raises BadEventError if a line of the step is not an event."""
        found = self.found
        event = decode(line)
        session = self._session
        if session is None or session.session_id != event.session_id or type(event) is SessionResumed:
            session = self._session = self._turn_to(event)
        if session.follows or not isinstance(event, Input):
            self._not_compared(session, event)
            return
        try:
            step = reduce(session.state, event)
        except REDUCER_ERRORS as error:
            self._diverges(session, (event, *self._rest_of_step()), (), error=_where(error))
            return
        said = step.events
        if not said:
            self._repeats(session, event)
            return
        if found.header.derived:
            lines = list(islice(self._lines, len(said) - 1))
            if said[0].__dict__ != event.__dict__ or lines != encoded(said[1:]):
                recorded = (event, *self._rest_of_step(lines))
                if recorded != (said[: len(recorded)] if self._is_incomplete and self._is_over else said):
                    self._diverges(session, recorded, said, after=step.state)
                    return
            else:
                found.line += len(lines)
        before = session.state
        session.last, session.state = said, step.state
        found.size += len(said)
        found.inputs += 1
        found.commands += len(step.commands)
        if self.listen is not None:
            self.listen(before, step)
        if self.look is not None:
            self.look(said)

    def _rest_of_step(self, lines: Sequence[bytes] = ()) -> list[Event]:
        """Return the remaining derived events of the recorded step, up to the next input. Reads first `lines`, which
        the calling code has already taken from the recording, and then further lines. Puts back the line of the next
        input, and the lines of `lines` after it: they are read again with the next step.
        """
        rest: list[Event] = []
        for line in chain(lines, self._lines):
            self.found.line += 1
            event = decode(line)
            if isinstance(event, Input):
                self.found.line -= 1
                self._ahead = iter([*(lines[len(rest) :] or [line]), *self._ahead])
                self._lines = chain(self._ahead, self._source)
                return rest
            rest.append(event)
        self._is_over = True
        return rest

    def _turn_to(self, event: Event) -> Session:
        """Return the session of an event, as the most recently used session. If more than KEPT_LIVE states are kept as
        objects, pickle the state of the least recently used session, to save memory.
        """
        known = self.found.sessions.get(event.session_id)
        session = self._segment(event) if known is None or isinstance(event, SessionResumed) else known
        self._recent.pop(session.session_id, None)
        self._recent[session.session_id] = session
        if len(self._recent) > KEPT_LIVE:
            self._recent.pop(next(iter(self._recent))).pack()
        return session

    def _segment(self, event: Event) -> Session:
        """Return the session of an event. Starts a segment if the session is new, or if another reducer version
        continues the log with this event. Raises BadRecordingError if a newer orch opened the session.
        """
        sessions = self.found.sessions
        if event.session_id not in sessions:
            sessions[event.session_id] = Session(event.session_id, event.at_us)
        session = sessions[event.session_id]
        before = session.segments[-1] if session.segments else None
        recorded_by = before.recorded_by if before else self.found.header.reducer_version
        if isinstance(event, SessionOpened) and (unreadable := why_unreadable(event)):
            where = f"{self.found.name}, line {self.found.line}"
            raise BadRecordingError(f"{where}: {unreadable}; replay it with that version")
        if isinstance(event, SessionOpened | SessionResumed) and event.reducer_version:
            recorded_by = event.reducer_version
        if before is None or before.recorded_by != recorded_by:
            if before is not None:
                before.last_version = session.state.version
            session.segments.append(Segment(recorded_by, session.state.version + 1))
            session.follows = session.is_lost
        return session

    def _not_compared(self, session: Session, event: Event) -> None:
        """Handle a recorded event that is not the input of a step to be compared. After a divergence
        (`Session.follows`), fold the event and the rest of its step. Otherwise the recorded step is longer than the
        replayed step: record a divergence.
        """
        if session.follows:
            self._fold(session, (event, *self._rest_of_step()))
        else:
            last = session.last
            self._diverges(session, (*last, event, *self._rest_of_step()), last, is_done=len(last))

    def _repeats(self, session: Session, event: Input) -> None:
        """Handle an input that today's reducer ignores as a duplicate. If the input has the session's next version, the
        reducer of the recording did not ignore it: record a divergence. Otherwise the file is damaged, because no log
        repeats an input: raise BadRecordingError.
        """
        if event.version != session.state.version + 1:
            where = f"{self.found.name}, line {self.found.line}"
            raise BadRecordingError(f"{where}: repeats an input that the log holds already")
        self._diverges(session, (event, *self._rest_of_step()), ())

    def _diverges(
        self,
        session: Session,
        recorded: tuple[Event, ...],
        replayed: tuple[Event, ...],
        *,
        is_done: int = 0,
        error: str = "",
        after: State | None = None,
    ) -> None:
        """Record a divergence, and fold the recorded events into the state.

        `is_done`: how many events of `recorded` are folded already. `error`: the exception that the reducer raised.
        `after`: the state after `replayed`. None: the reducer gave no such state, or the session has it already.
        """
        if error or not replayed:
            rule, place = RULES["ORCH1009" if error else "ORCH1007"], 0
        else:
            rule, place = first_difference(recorded, replayed)
        divergence = Divergence(
            rule=rule,
            line=self.found.line - len(recorded) + 1 + place,
            session_id=session.session_id,
            recorded=at(recorded, place),
            replayed=at(replayed, place),
            recorded_step=recorded,
            replayed_step=replayed,
            before=() if is_done else session.last,
            state=session.state,
            after=after,
            opened_at_us=session.opened_at_us,
            recorded_by=session.segments[-1].recorded_by,
            error=error,
        )
        self.found.divergences.append(divergence)
        if session.segments[-1].divergence is None:
            session.segments[-1].divergence = divergence
        session.follows = not self._keeps_going
        self._fold(session, recorded[is_done:])

    def _fold(self, session: Session, events: Sequence[Event]) -> None:
        """Fold recorded events into the session's state and count them. Does not compare them."""
        self.found.size += len(events)
        self.found.commands += sum(isinstance(event, CommandIssued) for event in events)
        if not session.is_lost:
            state = session.state.copy()
            try:
                for event in events:
                    apply(state, event)
            except REDUCER_ERRORS:  # already reported as a divergence
                session.is_lost = session.follows = True
            session.last, session.state = tuple(events), state
        if self.look is not None and isinstance(events[0], Input):
            self.look(events)


def _where(error: Exception) -> str:
    """Return the exception's type and message, with the file, line and function that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno}, {place.name})"
