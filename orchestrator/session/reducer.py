"""reduce(state, input) -> Step: decides about one input, drops duplicates and rejects stale results."""

from typing import NamedTuple

from events.derived import CommandIssued
from events.envelope import Event, Input, Result
from events.inputs import SttPartial
from orchestrator.session.evolve import CONNECTIONS
from orchestrator.session.fsm import LIVE, TABLE, decide
from orchestrator.session.state import State
from orchestrator.session.step import StepBuilder


class Step(NamedTuple):
    """The outcome of one input, returned by `reduce`. `events`: the input as logged, then the events derived from it.
    `commands`: the COMMAND_ISSUED events among `events`. For a duplicate, the state is unchanged, and both `events` and
    `commands` are empty.
    """

    state: State
    events: tuple[Event, ...]
    commands: tuple[CommandIssued, ...]


def reduce(state: State, event: Input) -> Step:
    """Decide about one input. Never raises: an input that is not allowed is recorded and rejected (EVENT_REJECTED).

    The calling code sets `at_us` and `incarnation` of `event`. If `at_us` is earlier than the time of the session's
    last event, that time replaces `at_us`.
    """
    if state.has_seen(event.producer, event.producer_seq, event.event_id):
        return Step(state, (), ())
    version = state.version + 1
    result = event if isinstance(event, Result) else None
    answered = state.answered(result) if result is not None else None
    logged = event.replace(
        at_us=max(event.at_us, state.at_us),
        cause=answered.event_id if answered else "",
        epoch=state.epoch,
        event_id=event.event_id or f"{event.session_id}:{version}",
        state_hash="",
        turn=state.turn,
        version=version,
    )
    builder = StepBuilder(state.copy(), logged, answered)
    if result is not None and answered is None:
        wrong = result.command_id in state.pending
        builder.reject("does not answer the command it names" if wrong else "stale: its command is not outstanding")
    elif type(event) in CONNECTIONS and builder.phase in LIVE and not state.is_from_the_owner(event.producer):
        builder.reject("said by a node that does not own the session any more")
    elif not (type(logged) is SttPartial and builder.phase in LIVE and state.is_old(logged)):
        decide(builder, TABLE[builder.phase, logged.type])  # type: ignore[attr-defined]
    builder.close()
    return Step(builder.state, tuple(builder.events), tuple(builder.commands))
