"""Builds a step: collects the events and commands of one input, and gives them ids and idempotency keys."""

from typing import Any, TypeVar

from events import codec
from events.derived import AnswerEnded, CommandIssued, EventRejected, Phase, TurnEnded, TurnStarted
from events.envelope import Derived, Event, Input, unchecked_event
from events.inputs import AnswerText, HandlerDetached, SttFinal
from orchestrator.session.commands import CancelTimer, Command, StartTimer
from orchestrator.session.evolve import apply
from orchestrator.session.heard import heard_ms, heard_text
from orchestrator.session.state import State

D = TypeVar("D", bound=Derived)
_BLANK = {kind: kind.blank for kind in codec.DERIVED.values()}
_COMMAND_VERSION = CommandIssued.blank["schema_version"]


class StepBuilder:
    """Collects the events and commands of one input. `say` adds an event, and `do` adds a command. Both also fold the
    addition into `state`.
    """

    __slots__ = (
        *("_cause", "_incarnation", "_shared", "_where", "answered", "commands", "events", "input"),
        *("is_awaited", "is_next_text", "loses_the_call", "late_words", "repeats", "session_id", "state"),
    )

    def __init__(self, state: State, event: Input, answered: CommandIssued | None) -> None:
        self.state = state
        self.input = event
        self.events: list[Event] = [event]
        self.commands: list[CommandIssued] = []
        self.answered = answered
        """The outstanding command that the input answers; None: the input is no result, or a stale result."""
        self.repeats = type(event) is SttFinal and state.repeats(event)
        """Whether the input is a final whose words have counted already (`State.repeats`)."""
        is_correction = type(event) is SttFinal and not state.user_is_speaking
        self.late_words = state.late_words(event.at_us) if is_correction else ""
        """If the input is a late final: the words of the last partial, which counted in its place. Otherwise empty."""
        self.is_awaited = type(event) is SttFinal and state.is_awaited(event)
        """Whether the input is the final transcript for which a finished utterance waits (timer `stt_deadline`)."""
        self.is_next_text = type(event) is AnswerText and state.awaits_text(event)
        """Whether the input is the next text of the answer."""
        self.loses_the_call = type(event) is HandlerDetached and event.handler_id == state.handler_id != ""
        """Whether the input ends the media connection that serves the session."""
        self.session_id = session_id = event.session_id
        self._where = f"{session_id}/{event.incarnation}/{state.inputs + 1}"
        """Prefix of the ids of all commands of this step."""
        apply(state, event)
        self._cause, self._incarnation = event.event_id, event.incarnation
        self._shared = {
            "at_us": event.at_us,
            "cause": event.event_id,
            "incarnation": event.incarnation,
            "session_id": session_id,
        }
        """Fields that all events derived from the input share."""

    def say(self, kind: type[D], **fields: Any) -> D:
        """Add a derived event, fold it into the state, and return it."""
        state = self.state
        version = state.version + 1
        event = unchecked_event(
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
        """Issue a command. `retry_of`: id of the outstanding command that the new command repeats and replaces; empty:
        the new command is no retry.

        A command that starts a stage has an idempotency key: the command id of the first attempt. All retries keep this
        key.
        """
        state, name, target = self.state, command.name, command.target
        version = state.version + 1
        # No count of derived events: if changed decisions derive more of them, recorded results still fit in a replay.
        command_id = f"{self._where}/{name}/{target}" if target else f"{self._where}/{name}"
        # Session, turn and stage are no key: if Redis loses the end of a log, another question may get the same ones.
        first = state.pending[retry_of].idempotency_key if retry_of else command_id
        issued = unchecked_event(
            CommandIssued,
            {  # same fields as in `say`, in half the time: most derived events are commands
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
        """Add EVENT_REJECTED with the reason. The input stays in the log: what it changed before this call, such as its
        sequence number, stays changed.
        """
        self.say(EventRejected, reason=reason)

    def arm(self, timer: str, delay_ms: int) -> None:
        """Start a timer that is due after `delay_ms`. If a timer of that name is running, cancel it first."""
        self.arm_at(timer, self.state.at_us + delay_ms * 1000)

    def arm_at(self, timer: str, due_at_us: int) -> None:
        """Start a timer that is due at `due_at_us`: microseconds on the same clock as the `at_us` of events. If a timer
        of that name is running, cancel it first.
        """
        self.disarm(timer)
        self.do(StartTimer(due_at_us=due_at_us, timer=timer))

    def disarm(self, *timers: str) -> None:
        """Cancel each of the named timers that is running."""
        for armed in self.state.armed(*timers):
            self.do(CancelTimer(command_id=armed.command_id, timer=armed.target))

    def end_answer(self, outcome: str) -> None:
        """End the current playback, if there is one, with this outcome, and record how much of it was heard."""
        playback = self.state.playback
        if playback is None:
            return
        heard, text = playback.audio_ms, playback.text
        if outcome != "finished":
            heard = heard_ms(playback, self.state.at_us)
            text = heard_text(playback, heard, in_utf16=not self.state.has_rules_of(7))
        self.say(
            AnswerEnded,
            chunks=playback.chunks,
            heard_ms=heard,
            heard_text=text,
            outcome=outcome,
            playback_id=playback.playback_id,
        )

    def end_turn(self, outcome: str) -> None:
        """End the open turn, if there is one, with this outcome."""
        if self.state.task is not None:
            self.say(TurnEnded, outcome=outcome)

    def close(self) -> None:
        """Finish the step: write the hash of the state into the last event."""
        self.events[-1].__dict__["state_hash"] = self.state.hash()

    @property
    def phase(self) -> Phase:
        return self.state.phase
