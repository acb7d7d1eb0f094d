"""The state of a session: what its log folds to."""

from dataclasses import dataclass, field

from pydantic_core import to_json

from events.derived import CommandIssued, Phase
from events.envelope import Result
from orchestrator.session.commands import answers
from orchestrator.session.digest import digest
from orchestrator.session.policy import Policy


@dataclass(frozen=True, slots=True)
class Turn:
    """The open turn. None means: not known yet; an empty intent: done without."""

    text: str
    started_at_us: int
    intent: str | None = None
    intent_elapsed_us: int = 0
    answer: str | None = None
    answer_elapsed_us: int = 0
    is_processed: bool = False
    """The answer is decided; where the turn is still THINKING, it waits for the user to stop speaking."""


@dataclass(frozen=True, slots=True)
class Playback:
    """The answer being spoken; the heard position was `position_ms` at `position_at_us` (0: nothing plays yet)."""

    playback_id: str
    text: str
    chunks: int = 0
    audio_ms: int = 0
    total_ms: int | None = None
    """The length of the whole; None: not known yet."""
    position_ms: int = 0
    position_at_us: int = 0


@dataclass(slots=True)
class State:
    """Copied once per step, then changed in place by evolve; whoever holds a State never sees it change."""

    session_id: str = ""
    phase: Phase = "NEW"
    version: int = 0
    inputs: int = 0
    turn: int = 0
    epoch: int = 0
    at_us: int = 0
    policy: Policy = field(default_factory=Policy)
    owner: str = ""
    """The incarnation that opened or resumed the session."""
    node: str = ""
    """The node that said so, as its producers name it (`node` or `node:part`); it alone knows who is connected."""
    client_id: str = ""
    handler_id: str = ""
    user_is_speaking: bool = False
    partial_text: str = ""
    held_text: str = ""
    held_via: str = ""
    """An utterance that waits for LISTENING."""
    task: Turn | None = None
    playback: Playback | None = None
    pending: dict[str, CommandIssued] = field(default_factory=dict)
    """The one book of outstanding work: command_id → command."""
    producers: dict[str, int] = field(default_factory=dict)
    """High-water mark of producer_seq per producer, the most recent last."""
    recent_ids: tuple[str, ...] = ()
    """Ids of the last inputs without a sequence: a bounded window, so deduplication of those is best effort."""

    def copy(self) -> "State":
        return State(
            self.session_id,
            self.phase,
            self.version,
            self.inputs,
            self.turn,
            self.epoch,
            self.at_us,
            self.policy,
            self.owner,
            self.node,
            self.client_id,
            self.handler_id,
            self.user_is_speaking,
            self.partial_text,
            self.held_text,
            self.held_via,
            self.task,
            self.playback,
            dict(self.pending),
            dict(self.producers),
            self.recent_ids,
        )

    def outstanding(self, *names: str) -> list[CommandIssued]:
        """The outstanding commands of these names, in the order they were issued."""
        return [command for command in self.pending.values() if command.name in names]

    def is_from_the_owner(self, producer: str) -> bool:
        """Whether a producer belongs to the node that opened or resumed the session."""
        return producer.partition(":")[0] == self.node

    def timer(self, name: str) -> CommandIssued | None:
        """The armed timer of that name."""
        return next((c for c in self.pending.values() if c.name == "StartTimer" and c.target == name), None)

    def answered(self, result: Result) -> CommandIssued | None:
        """The outstanding command that a result answers; None: the result is stale."""
        command = self.pending.get(result.command_id)
        return command if command is not None and answers(result, command) else None

    def has_seen(self, producer: str, producer_seq: int, event_id: str) -> bool:
        """Whether an input is a repetition."""
        if producer_seq:
            return producer_seq <= self.producers.get(producer, 0)
        return bool(event_id) and event_id in self.recent_ids

    def hash(self) -> str:
        """A digest of a flat canonical form, without the policy (which never changes)."""
        task, playback = self.task, self.playback
        return digest(
            to_json(
                (
                    *(self.session_id, self.phase, self.version, self.inputs, self.turn, self.epoch, self.at_us),
                    *(self.owner, self.node, self.client_id, self.handler_id, self.user_is_speaking),
                    *(self.partial_text, self.held_text, self.held_via),
                    task
                    and (
                        *(task.text, task.started_at_us, task.intent, task.intent_elapsed_us),
                        *(task.answer, task.answer_elapsed_us, task.is_processed),
                    ),
                    playback
                    and (
                        *(playback.playback_id, playback.text, playback.chunks, playback.audio_ms),
                        *(playback.total_ms, playback.position_ms, playback.position_at_us),
                    ),
                    tuple(self.pending),
                    tuple(self.producers.items()),
                    self.recent_ids,
                )
            )
        )
