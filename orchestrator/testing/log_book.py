"""An independent reading of a session's log: what is going on by rules of its own, never by the core's."""

from dataclasses import dataclass, field

from events import derived, inputs
from events.derived import CommandIssued
from events.envelope import Event, Input, Result
from orchestrator.session.policy import Policy
from orchestrator.testing.simulated_steps import Seen

STAGES = ("ClassifyIntent", "AnswerQuestion", "PlayFiller", "Speak")
PLAYS = ("PlayFiller", "Speak")
EXPECTS_RESULT = (*STAGES, "StartTimer")
WHAT_ANSWERS: dict[type[Event], tuple[str, ...]] = {
    inputs.IntentResolved: ("ClassifyIntent",),
    inputs.RagAnswered: ("AnswerQuestion",),
    inputs.ServiceFailed: STAGES,
    inputs.TtsChunkReady: PLAYS,
    inputs.TtsComplete: PLAYS,
    inputs.PlaybackStarted: PLAYS,
    inputs.PlaybackProgress: PLAYS,
    inputs.PlaybackDone: PLAYS,
    inputs.TimerFired: ("StartTimer",),
}
LAST_WORDS = (
    inputs.IntentResolved,
    inputs.RagAnswered,
    inputs.ServiceFailed,
    inputs.PlaybackDone,
    inputs.TimerFired,
)


@dataclass(slots=True)
class Answer:
    """The answer that is being spoken, as the log tells it."""

    playback_id: str
    text: str
    audio_ms: int = 0
    chunks: int = 0
    complete: bool = False
    position_ms: int = 0


@dataclass(slots=True)
class Book:
    """What the log has said so far."""

    phase: str = "NEW"
    since_us: int = 0
    """The world's time when the phase began, or when it was granted its whole time again."""
    version: int = 0
    at_us: int = 0
    inputs: int = 0
    turn: int = 0
    epoch: int = 0
    session_id: str = ""
    limits_us: dict[str, int] = field(default_factory=dict)
    """How long a phase may take, by the recorded policy."""
    client_id: str = ""
    handler_id: str = ""
    connected: set[str] = field(default_factory=set)
    """Clients that have connected since the last owner came."""
    owner: str = ""
    node: str = ""
    partial: str = ""
    in_turn: bool = False
    held: str = ""
    answer: Answer | None = None
    outstanding: dict[str, CommandIssued] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    """Commands that are outstanding no more: command_id → answered, cancelled, stopped, withdrawn or retried."""
    issued: set[str] = field(default_factory=set)
    resumed: bool = False

    def what_it_answers(self, event: Input) -> CommandIssued | None:
        """The outstanding command that a result answers; None: it is stale, or no result, or says something wrong."""
        if not isinstance(event, Result):
            return None
        command = self.outstanding.get(event.command_id)
        if command is None or command.name not in WHAT_ANSWERS[type(event)]:
            return None
        about = getattr(event, "playback_id", None) or getattr(event, "target", None) or command.target
        return command if about == command.target else None

    def timers(self) -> dict[str, CommandIssued]:
        return {command.target: command for command in self.outstanding.values() if command.name == "StartTimer"}

    def is_outstanding(self, *names: str) -> bool:
        return any(command.name in names for command in self.outstanding.values())

    def words_that_open_a_turn(self, event: Input) -> str:
        """The words with which this input must open a turn; empty: it must not open any."""
        if isinstance(event, inputs.SttFinal) and self.phase in ("LISTENING", "THINKING"):
            return event.text.strip()
        if isinstance(event, inputs.TimerFired) and self.what_it_answers(event):
            if event.target == "interrupt_pause" and self.phase == "INTERRUPT":
                return self.held
            if event.target == "stt_deadline" and self.phase in ("LISTENING", "THINKING"):
                return self.partial.strip()
        return ""

    def is_new_owner(self, event: Input) -> bool:
        """Whether this resume is the first of its owner, in a session that is open."""
        return self.phase not in ("NEW", "ENDED") and event.incarnation != self.owner

    def interrupts(self, event: Input) -> bool:
        """Whether this input takes the floor from the agent."""
        if self.phase != "SPEAKING" or self.answer is None:
            return False
        if isinstance(event, inputs.BargeIn):
            return event.playback_id in ("", self.answer.playback_id)
        if isinstance(event, inputs.SttFinal):
            return bool(event.text.strip())
        return isinstance(event, inputs.SpeechStarted)

    def absorb(self, step: Seen) -> None:
        """Read one more step."""
        self._absorb_input(step)
        for event in step.said:
            self._absorb_derived(event, step.now_us)
        last = step.said[-1] if step.said else step.input
        self.version, self.at_us = last.version, last.at_us

    def _absorb_input(self, step: Seen) -> None:
        event = step.input
        self.inputs += 1
        if isinstance(event, Result):
            self._absorb_result(event)
        elif isinstance(event, inputs.SttFinal):
            if event.text.strip() and self.phase != "IDLE":
                self.partial = ""
            if self.phase in ("SPEAKING", "INTERRUPT"):
                self.held = f"{self.held} {event.text.strip()}".strip()
        elif self.phase not in ("NEW", "ENDED"):
            self._absorb_connection(event, step.now_us)
        if isinstance(event, inputs.SessionOpened) and not self.session_id:
            self.session_id, self.owner, self.node = event.session_id, event.incarnation, node_of(event)
            policy = Policy.model_validate(event.policy)
            self.limits_us["THINKING"] = (policy.deadlines.answer_ms + policy.deadlines.floor_ms) * 1000
            self.limits_us["INTERRUPT"] = policy.interruption.pause_ms * 1000

    def _absorb_connection(self, event: Input, now_us: int) -> None:
        if node_of(event) != self.node and not isinstance(event, inputs.SessionResumed | inputs.SttPartial):
            return  # late, from before that node lost the session
        match event:
            case inputs.ClientConnected():
                self.client_id = event.client_id
                self.connected.add(event.client_id)
            case inputs.ClientDisconnected() if event.client_id == self.client_id:
                self.client_id = ""
            case inputs.HandlerAttached():
                self.handler_id = event.handler_id
            case inputs.HandlerDetached() if event.handler_id == self.handler_id:
                self.handler_id = ""
            case inputs.SttPartial():
                self.partial = event.text
            case inputs.SessionResumed() if self.is_new_owner(event):
                self.owner, self.node = event.incarnation, node_of(event)
                self.client_id = self.handler_id = ""
                self.connected.clear()
                self.epoch += 1
                self.since_us = now_us
                self.resumed = True

    def _absorb_result(self, event: Result) -> None:
        if self.what_it_answers(event) is None:
            return
        if isinstance(event, LAST_WORDS):
            self._close(event.command_id, "answered")
        answer = self.answer
        if answer is None or getattr(event, "playback_id", "") != answer.playback_id:
            return
        match event:
            case inputs.TtsChunkReady():
                answer.chunks += 1
                answer.audio_ms += event.duration_ms
            case inputs.TtsComplete():
                answer.complete = True
            case inputs.PlaybackProgress() | inputs.PlaybackDone():
                answer.position_ms = max(answer.position_ms, event.position_ms)

    def _absorb_derived(self, event: Event, now_us: int) -> None:
        match event:
            case derived.StateChanged():
                self.phase, self.since_us = event.to_phase, now_us
                self.partial = "" if event.to_phase == "LISTENING" else self.partial
            case derived.TurnStarted():
                self.turn += 1
                self.in_turn, self.held, self.partial = True, "", ""
            case derived.TurnEnded():
                self.in_turn = False
            case derived.AnswerEnded():
                self.answer = None
            case CommandIssued():
                self._absorb_command(event)

    def _absorb_command(self, command: CommandIssued) -> None:
        self.issued.add(command.command_id)
        if command.retry_of:
            self._close(command.retry_of, "retried")
        if command.name in EXPECTS_RESULT:
            self.outstanding[command.command_id] = command
        match command.name:
            case "CancelTask":
                self.epoch += 1
                self._close_all(STAGES, "", "cancelled")
            case "StopPlayback":
                self._close_all(PLAYS, command.target, "stopped")
            case "CancelTimer" | "CancelStage":
                self._close(str(command.payload["command_id"]), "withdrawn")
            case "Speak":
                self._speaks(command)

    def _speaks(self, command: CommandIssued) -> None:
        if self.answer is None or self.answer.playback_id != command.target:
            self.answer = Answer(command.target, str(command.payload["text"]))
        else:
            self.answer.audio_ms, self.answer.complete = self.answer.position_ms, False

    def _close_all(self, names: tuple[str, ...], target: str, how: str) -> None:
        for command in list(self.outstanding.values()):
            if command.name in names and target in ("", command.target):
                self._close(command.command_id, how)

    def _close(self, command_id: str, how: str) -> None:
        if self.outstanding.pop(command_id, None) is not None:
            self.closed[command_id] = how


def node_of(event: Input) -> str:
    """The node that a producer belongs to: it is called `node` or `node:part`."""
    return event.producer.partition(":")[0]
