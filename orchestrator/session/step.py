"""A step in the making: one input and what it leads to. Decisions speak in these few verbs."""

from typing import Any, TypeVar

from events.derived import AnswerEnded, CommandIssued, EventRejected, Phase, TurnEnded
from events.envelope import Derived, Event, Input, Result
from events.inputs import SttFinal
from orchestrator.session.commands import CancelTimer, Command, StartTimer
from orchestrator.session.evolve import apply
from orchestrator.session.heard import heard_ms, heard_text
from orchestrator.session.state import State

D = TypeVar("D", bound=Derived)


class Step:
    """Collects events and commands. `say` evolves at once, so that a later line sees what an earlier one did."""

    __slots__ = ("answered", "commands", "events", "input", "is_awaited", "repeats_another", "state")

    def __init__(self, state: State, event: Input) -> None:
        self.state = state
        self.input = event
        self.events: list[Event] = [event]
        self.commands: list[CommandIssued] = []
        self.answered: CommandIssued | None = None
        """The outstanding command that the input answers, if it is a result that counts."""
        self.repeats_another = isinstance(event, SttFinal) and state.said_by_another(event)
        """Whether the input says what another producer has just said."""
        self.is_awaited = isinstance(event, SttFinal) and state.is_awaited(event)
        """Whether the end of an utterance waits for the input."""
        if isinstance(event, Result):
            self.answered = state.answered(event)
        apply(state, event)

    def say(self, kind: type[D], **fields: Any) -> D:
        """State a fact about the input; the state has changed when this returns."""
        state, version = self.state, self.state.version + 1
        event = kind(
            at_us=state.at_us,
            cause=self.input.event_id,
            epoch=state.epoch,
            event_id=f"{self.input.session_id}:{version}",
            incarnation=self.input.incarnation,
            session_id=self.input.session_id,
            turn=state.turn + (kind.__name__ == "TurnStarted"),
            version=version,
            **fields,
        )
        apply(state, event)
        self.events.append(event)
        return event

    def do(self, command: Command, retry_of: str = "") -> None:
        """Want something done. The id is derived from the input, never from the count of derived events.

        What a service is asked has a key that is stable over attempts: the id of the first one. Session, turn and stage
        would not do: when Redis has lost the end of a log, another question may be asked under the same three.
        """
        state = self.state
        where, target = f"{self.input.session_id}/{self.input.incarnation}/{state.inputs}", command.target
        command_id = f"{where}/{command.name}/{target}" if target else f"{where}/{command.name}"
        first = state.pending[retry_of].idempotency_key if retry_of else command_id
        issued = self.say(
            CommandIssued,
            command_id=command_id,
            idempotency_key=first if command.stage else "",
            name=command.name,
            payload=command.payload(),
            retry_of=retry_of,
            target=target,
        )
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
        for timer in timers:
            if (armed := self.state.timer(timer)) is not None:
                self.do(CancelTimer(command_id=armed.command_id, timer=timer))

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

    @property
    def phase(self) -> Phase:
        return self.state.phase
