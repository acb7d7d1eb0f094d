"""reduce(state, input) -> Step(state, events, commands): the one place where an input becomes decisions."""

from typing import NamedTuple

from events.derived import CommandIssued
from events.envelope import Event, Input, Result
from orchestrator.session.evolve import CONNECTIONS
from orchestrator.session.fsm import LIVE, TABLE, decide
from orchestrator.session.state import State
from orchestrator.session.step import Step as Making


class Step(NamedTuple):
    """What one input led to. `events` starts with the input as it is logged; no events: a repetition."""

    state: State
    events: tuple[Event, ...]
    commands: tuple[CommandIssued, ...]


def reduce(state: State, event: Input) -> Step:
    """Decide. Total: no input raises, an illegal one is recorded and changes nothing but bookkeeping.

    `event` carries `at_us` and `incarnation`, stamped by the owner; time never runs backwards in a session.
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
