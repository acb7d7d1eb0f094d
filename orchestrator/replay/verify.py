"""Is a file a sound log? Every line is read, every state folded and its hash compared, every invariant looked at."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from events.codec import BadEventError, decode
from events.envelope import Event
from events.recording import Header, steps
from orchestrator.replay.invariants import Invariants
from orchestrator.replay.replay import REDUCER_ERRORS
from orchestrator.session.evolve import apply
from orchestrator.session.state import State


@dataclass(slots=True)
class Verified:
    """What was found."""

    events: int = 0
    sessions: set[str] = field(default_factory=set)
    checksum: str = ""
    problems: list[str] = field(default_factory=list)


def verify(header: Header, lines: Iterable[bytes]) -> Verified:
    """Look at a recording line by line. Never raises for what the lines hold."""
    found, invariants, checksum = Verified(), Invariants(), sha256()
    states: dict[str, State] = {}

    def events() -> Iterator[Event]:
        for number, line in enumerate(lines, 2):
            checksum.update(line + b"\n")
            try:
                event = decode(line)
            except BadEventError as error:
                found.problems.append(f"line {number}: ORCH1006 {error if line.strip() else 'empty line'}")
                continue
            found.events += 1
            found.sessions.add(event.session_id)
            yield event

    for step in steps(events()):
        if header.derived:
            invariants.look(step)
            _fold(states, step, found)
    found.problems += [f"{b.session_id} version {b.version}: {b.invariant} {b.message}" for b in invariants.broken]
    found.checksum = checksum.hexdigest()
    if header.sha256 and header.sha256 != found.checksum:
        found.problems.append(f"line 1: the checksum is {header.sha256[:16]}…, the lines give {found.checksum[:16]}…")
    return found


def _fold(states: dict[str, State], step: list[Event], found: Verified) -> None:
    """Fold a step and compare the hash that it carries, as long as the log can be folded at all."""
    last = step[-1]
    where = f"{last.session_id} version {last.version}"
    state = states.setdefault(last.session_id, State())
    if state.version < 0:
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
