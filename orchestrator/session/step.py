"""A step in the making: one input and what it leads to, said and done in few verbs; ids and keys are made here."""

from typing import Any, TypeVar

from events import codec
from events.derived import AnswerEnded, CommandIssued, EventRejected, Phase, TurnEnded, TurnStarted
from events.envelope import Derived, Event, Input, holding
from events.inputs import SttFinal
from orchestrator.session.commands import CancelTimer, Command, StartTimer
from orchestrator.session.evolve import apply
from orchestrator.session.heard import heard_ms, heard_text
from orchestrator.session.state import State

D = TypeVar("D", bound=Derived)
_BLANK = {kind: kind.blank for kind in codec.DERIVED.values()}
_COMMAND_VERSION = CommandIssued.blank["schema_version"]


class Step:
    """Collects events and commands. `say` evolves at once, so that a later line sees what an earlier one did."""

    __slots__ = (
        *("_cause", "_incarnation", "_shared", "_where", "answered", "commands", "events", "input"),
        *("is_awaited", "repeats_another", "session_id", "state"),
    )

    def __init__(self, state: State, event: Input, answered: CommandIssued | None) -> None:
        self.state = state
        self.input = event
        self.events: list[Event] = [event]
        self.commands: list[CommandIssued] = []
        self.answered = answered
        """The outstanding command that the input answers, if it is a result that counts."""
        self.repeats_another = type(event) is SttFinal and state.said_by_another(event)
        """Whether the input says what another producer has just said."""
        self.is_awaited = type(event) is SttFinal and state.is_awaited(event)
        """Whether the end of an utterance waits for the input."""
        self.session_id = session_id = event.session_id
        self._where = f"{session_id}/{event.incarnation}/{state.inputs + 1}"
        """What the ids of all commands begin with."""
        apply(state, event)
        self._cause, self._incarnation = event.event_id, event.incarnation
        self._shared = {
            "at_us": event.at_us,
            "cause": event.event_id,
            "incarnation": event.incarnation,
            "session_id": session_id,
        }
        """What all events have in common that are said about the input."""

    def say(self, kind: type[D], **fields: Any) -> D:
        """State a fact about the input; the state has changed when this returns."""
        state = self.state
        version = state.version + 1
        event = holding(
            kind,
            {
                **_BLANK[kind],
                **self._shared,
                "epoch": state.epoch,
                "event_id": f"{self.session_id}:{version}",
                "turn": state.turn + 1 if kind is TurnStarted else state.turn,
                "version": version,
                **fields,
            },
        )
        apply(state, event)
        self.events.append(event)
        return event

    def do(self, command: Command, retry_of: str = "") -> None:
        """Want something done. The id is derived from the input, never from the count of derived events.

        What a service is asked has a key that is stable over attempts: the id of the first one. Session, turn and stage
        would not do: when Redis has lost the end of a log, another question may be asked under the same three.
        """
        state, name, target = self.state, command.name, command.target
        version = state.version + 1
        command_id = f"{self._where}/{name}/{target}" if target else f"{self._where}/{name}"
        first = state.pending[retry_of].idempotency_key if retry_of else command_id
        issued = holding(
            CommandIssued,
            {  # as `say` does it; but most of what is said are commands, and this takes half the time
                "at_us": state.at_us,
                "cause": self._cause,
                "command_id": command_id,
                "epoch": state.epoch,
                "event_id": f"{self.session_id}:{version}",
                "idempotency_key": first if command.stage else "",
                "incarnation": self._incarnation,
                "name": name,
                "payload": command.payload(),
                "retry_of": retry_of,
                "schema_version": _COMMAND_VERSION,
                "session_id": self.session_id,
                "state_hash": "",
                "target": target,
                "turn": state.turn,
                "type": "COMMAND_ISSUED",
                "version": version,
            },
        )
        apply(state, issued)
        self.events.append(issued)
        self.commands.append(issued)

    def reject(self, reason: str) -> None:
        """The input is recorded and has no effect."""
        self.say(EventRejected, reason=reason)

    def arm(self, timer: str, delay_ms: int) -> None:
        """Start a timer, instead of the one of that name that may be running."""
        self.arm_at(timer, self.state.at_us + delay_ms * 1000)

    def arm_at(self, timer: str, due_at_us: int) -> None:
        """As `arm`, for a moment in the session's time."""
        self.disarm(timer)
        self.do(StartTimer(due_at_us=due_at_us, timer=timer))

    def disarm(self, *timers: str) -> None:
        """Withdraw timers, where they are armed."""
        for armed in self.state.armed(*timers):
            self.do(CancelTimer(command_id=armed.command_id, timer=armed.target))

    def end_answer(self, outcome: str) -> None:
        """The answer is over, if there is one: say how much of it was heard."""
        playback = self.state.playback
        if playback is None:
            return
        heard = playback.audio_ms if outcome == "finished" else heard_ms(playback, self.state.at_us)
        self.say(
            AnswerEnded,
            chunks=playback.chunks,
            heard_ms=heard,
            heard_text=playback.text if outcome == "finished" else heard_text(playback, heard),
            outcome=outcome,
            playback_id=playback.playback_id,
        )

    def end_turn(self, outcome: str) -> None:
        """The turn is over, if one is open."""
        if self.state.task is not None:
            self.say(TurnEnded, outcome=outcome)

    def close(self) -> None:
        """Nothing more is said: the last event carries the hash of the state. Nobody but this step has seen it yet."""
        self.events[-1].__dict__["state_hash"] = self.state.hash()

    @property
    def phase(self) -> Phase:
        return self.state.phase
