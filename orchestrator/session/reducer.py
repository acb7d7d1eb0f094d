"""reduce(state, input) -> Step(state, events, commands): the one place where an input becomes decisions."""

from dataclasses import dataclass

from events.derived import CommandIssued
from events.envelope import Event, Input, Result
from orchestrator.session.evolve import CONNECTIONS
from orchestrator.session.fsm import LIVE, TABLE, decide
from orchestrator.session.state import State
from orchestrator.session.step import Step as Making


@dataclass(frozen=True, slots=True)
class Step:
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
    outstanding = state.answered(event) if isinstance(event, Result) else None
    logged = event.model_copy(
        update={
            "at_us": max(event.at_us, state.at_us),
            "cause": outstanding.event_id if outstanding else "",
            "epoch": state.epoch,
            "state_hash": "",
            "event_id": event.event_id or f"{event.session_id}:{version}",
            "turn": state.turn,
            "version": version,
        }
    )
    making = Making(state.copy(), logged)
    if isinstance(event, Result) and outstanding is None:
        wrong = event.command_id in state.pending
        making.reject("does not answer the command it names" if wrong else "stale: its command is not outstanding")
    elif isinstance(event, CONNECTIONS) and making.phase in LIVE and not state.is_from_the_owner(event.producer):
        making.reject("said by a node that does not own the session any more")
    else:
        decide(making, TABLE[making.phase, logged.type])  # type: ignore[attr-defined]
    last = making.events[-1]
    making.events[-1] = last.model_copy(update={"state_hash": making.state.hash()})
    return Step(making.state, tuple(making.events), tuple(making.commands))
