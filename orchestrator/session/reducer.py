"""reduce(state, input) -> Step(state, events, commands): decides about one input. Duplicates are dropped, stale results
rejected.
"""

from typing import NamedTuple

from events.derived import CommandIssued
from events.envelope import Event, Input, Result
from orchestrator.session.evolve import CONNECTIONS
from orchestrator.session.fsm import LIVE, TABLE, decide
from orchestrator.session.state import State
from orchestrator.session.step import Step as Making


class Step(NamedTuple):
    """The outcome of one input: the new state, and the events and commands that the reducer produced. `events` starts
    with the input as logged; all are empty for a duplicate.
    """

    state: State
    events: tuple[Event, ...]
    commands: tuple[CommandIssued, ...]


def reduce(state: State, event: Input) -> Step:
    """Decide about one input. Never raises: an illegal input is recorded and changes only counters and duplicate marks.

    `event` carries `at_us` and `incarnation`, stamped by the owner. An `at_us` before the session's time is raised to
    it.
    """
    if state.has_seen(event.producer, event.producer_seq, event.event_id):
        return Step(state, (), ())
    version = state.version + 1
    result = event if isinstance(event, Result) else None
    answered = state.answered(result) if result is not None else None
    logged = event.but(
        at_us=max(event.at_us, state.at_us),
        cause=answered.event_id if answered else "",
        epoch=state.epoch,
        event_id=event.event_id or f"{event.session_id}:{version}",
        state_hash="",
        turn=state.turn,
        version=version,
    )
    making = Making(state.copy(), logged, answered)
    if result is not None and answered is None:
        wrong = result.command_id in state.pending
        making.reject("does not answer the command it names" if wrong else "stale: its command is not outstanding")
    elif type(event) in CONNECTIONS and making.phase in LIVE and not state.is_from_the_owner(event.producer):
        making.reject("said by a node that does not own the session any more")
    else:
        decide(making, TABLE[making.phase, logged.type])  # type: ignore[attr-defined]
    making.close()
    return Step(making.state, tuple(making.events), tuple(making.commands))
