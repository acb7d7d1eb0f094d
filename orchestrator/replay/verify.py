"""Checks that a file is a sound log (`orch verify`): decodes each line, checks each state hash and the invariants."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from events.codec import BadEventError, decode
from events.envelope import Event
from events.inputs import SessionOpened
from events.recording import BadRecordingError, Header, steps
from orchestrator.replay.invariants import Invariants
from orchestrator.replay.replay import REDUCER_ERRORS, by_newer
from orchestrator.safe_text import one_line
from orchestrator.session.evolve import apply
from orchestrator.session.state import State, why_unreadable


@dataclass(slots=True)
class Verified:
    """Result of a check. `problems`: a text for each problem; empty if the log is sound."""

    events: int = 0
    sessions: set[str] = field(default_factory=set)
    checksum: str = ""
    problems: list[str] = field(default_factory=list)


def verify(header: Header, lines: Iterable[bytes]) -> Verified:
    """Check a recording line by line. A bad line becomes a problem, and so does a BadRecordingError from `lines`."""
    found, invariants, checksum = Verified(), Invariants(), sha256()
    states: dict[str, State] = {}

    def events() -> Iterator[Event]:
        for number, line in enumerate(_readable(lines, found.problems), 2):
            checksum.update(line + b"\n")
            try:
                event = decode(line)
            except BadEventError as error:
                what = f"{error}{by_newer(header)}" if line.strip() else "empty line"
                found.problems.append(f"line {number}: ORCH1006 {what}")
                continue
            found.events += 1
            found.sessions.add(event.session_id)
            yield event

    for step in steps(events()):
        if header.derived:
            invariants.look(step)
            _fold(states, step, found)
    found.problems += [
        f"{one_line(b.session_id)} version {b.version}: {b.invariant} {b.message}" for b in invariants.broken
    ]
    found.checksum = checksum.hexdigest()
    if header.sha256 and header.sha256 != found.checksum:
        found.problems.append(f"line 1: the checksum is {header.sha256[:16]}…, the lines give {found.checksum[:16]}…")
    return found


def _readable(lines: Iterable[bytes], problems: list[str]) -> Iterator[bytes]:
    """Yield the lines. If the file cannot be read to its end, add the error to `problems` and stop."""
    try:
        yield from lines
    except BadRecordingError as error:
        problems.append(str(error))


def _fold(states: dict[str, State], step: list[Event], found: Verified) -> None:
    """Fold a step and compare its state hash with the recorded hash. Ignores a session after its first problem here."""
    last = step[-1]
    where = f"{one_line(last.session_id)} version {last.version}"
    state = states.setdefault(last.session_id, State())
    if state.version < 0:
        return
    if isinstance(step[0], SessionOpened) and (unreadable := why_unreadable(step[0])):
        found.problems.append(f"{where}: {unreadable}; verify it with that version")
        state.version = -1
        return
    try:
        for event in step:
            apply(state, event)
    except REDUCER_ERRORS:
        found.problems.append(f"{where}: ORCH1007 does not follow from what is before it")
        state.version = -1
    else:
        if last.state_hash != state.hash():
            found.problems.append(f"{where}: ORCH1004 state {last.state_hash or '(none)'}, it folds to {state.hash()}")
            state.version = -1
