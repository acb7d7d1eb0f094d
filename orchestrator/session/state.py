"""The state of a session: what its log folds to."""

from dataclasses import dataclass, field
from typing import Any, Self

from pydantic_core import to_json

from events.derived import CommandIssued, Phase
from events.envelope import Result
from events.inputs import SttFinal
from orchestrator.session.commands import answers
from orchestrator.session.digest import digest
from orchestrator.session.phrases import normal
from orchestrator.session.policy import Policy


@dataclass(frozen=True)
class _Part:
    """A part of the state that is never changed, only replaced: whoever holds a State never sees it change."""

    def but(self, **fields: Any) -> Self:
        """A copy in which some fields are other ones; a tenth of the time of `dataclasses.replace`."""
        part, held = object.__new__(type(self)), self.__dict__ | fields
        assert len(held) == len(self.__dict__), "a part has no other fields"
        object.__setattr__(part, "__dict__", held)
        return part


@dataclass(frozen=True)
class Turn(_Part):
    """The open turn. None means: not known yet; an empty intent: done without."""

    text: str
    started_at_us: int
    via: str = "speech"
    intent: str | None = None
    intent_elapsed_us: int = 0
    answer: str | None = None
    answer_elapsed_us: int = 0
    is_processed: bool = False
    """The answer is decided; where the turn is still THINKING, it waits for the user to stop speaking."""
    ends: str = ""
    """Why the session ends with this answer; empty: it goes on."""


@dataclass(frozen=True)
class Speculation(_Part):
    """Questions asked about an utterance before it is complete: the how manieth try, and what came of it so far."""

    number: int
    text: str
    intent: str | None = None
    intent_elapsed_us: int = 0
    answer: str | None = None
    answer_elapsed_us: int = 0


@dataclass(frozen=True)
class Utterance(_Part):
    """The last words that came in a final, normalised, and which producer said so."""

    words: str
    producer: str
    at_us: int


@dataclass(frozen=True)
class Playback(_Part):
    """What is being spoken; the heard position was `position_ms` at `position_at_us` (0: it stands still)."""

    playback_id: str
    text: str
    ends: str = ""
    """Why the session ends when this is over; empty: it goes on."""
    chunks: int = 0
    audio_ms: int = 0
    total_ms: int | None = None
    """The length of the whole; None: not known yet."""
    position_ms: int = 0
    position_at_us: int = 0
    is_paused: bool = False
    paused_at_us: int = 0
    words: tuple[tuple[int, str], ...] = ()
    """Where in the audio each word begins, as far as the synthesiser said so."""

    @property
    def is_interruptible(self) -> bool:
        """A farewell that the user can change is interrupted as any answer; another one is the end."""
        return self.ends in ("", "goodbye", "user_away")


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
    speech_started_at_us: int = 0
    speech_stopped_at_us: int = 0
    partial_text: str = ""
    partial_at_us: int = 0
    """When it became what it is."""
    partial_is_complete: bool = False
    utterance: Utterance | None = None
    held_text: str = ""
    held_via: str = ""
    """An utterance that waits for LISTENING."""
    task: Turn | None = None
    playback: Playback | None = None
    speculation: Speculation | None = None
    tries: int = 0
    """Speculations for the utterance that is being spoken."""
    answer_failures: int = 0
    speech_failures: int = 0
    """In a row."""
    away_prompts: int = 0
    """Since the user's last words."""
    limits: int = 0
    """How often the session's time has run out."""
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
            self.speech_started_at_us,
            self.speech_stopped_at_us,
            self.partial_text,
            self.partial_at_us,
            self.partial_is_complete,
            self.utterance,
            self.held_text,
            self.held_via,
            self.task,
            self.playback,
            self.speculation,
            self.tries,
            self.answer_failures,
            self.speech_failures,
            self.away_prompts,
            self.limits,
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
        for command in self.pending.values():
            if command.target == name and command.name == "StartTimer":
                return command
        return None

    def armed(self, *timers: str) -> list[CommandIssued]:
        """Those of these timers that are armed, in this order."""
        found = [one for one in self.pending.values() if one.target in timers and one.name == "StartTimer"]
        return sorted(found, key=lambda one: timers.index(one.target)) if len(found) > 1 else found

    def answered(self, result: Result) -> CommandIssued | None:
        """The outstanding command that a result answers; None: the result is stale."""
        command = self.pending.get(result.command_id)
        return command if command is not None and answers(result, command) else None

    def said_by_another(self, final: SttFinal) -> bool:
        """Whether another producer has just said the same words: one utterance that came by two ways."""
        last = self.utterance
        return (
            last is not None
            and last.producer != final.producer
            and last.words == normal(final.text)
            and final.at_us <= last.at_us + self.policy.deadlines.stt_ms * 1000
        )

    def is_awaited(self, final: SttFinal) -> bool:
        """Whether a final is what the end of an utterance waits for: a repetition is not, where other words were
        understood since.
        """
        is_other = self.said_by_another(final) and not normal(final.text).startswith(normal(self.partial_text))
        return self.timer("stt_deadline") is not None and not is_other

    def has_seen(self, producer: str, producer_seq: int, event_id: str) -> bool:
        """Whether an input is a repetition."""
        if producer_seq:
            return producer_seq <= self.producers.get(producer, 0)
        return bool(event_id) and event_id in self.recent_ids

    def hash(self) -> str:
        """A digest of a flat canonical form, without the policy (which never changes)."""
        task, playback, guess, said = self.task, self.playback, self.speculation, self.utterance
        return digest(
            to_json(
                [
                    *(self.session_id, self.phase, self.version, self.inputs, self.turn, self.epoch, self.at_us),
                    *(self.owner, self.node, self.client_id, self.handler_id, self.user_is_speaking),
                    *(self.speech_started_at_us, self.speech_stopped_at_us),
                    *(self.partial_text, self.partial_at_us, self.partial_is_complete),
                    said and (said.words, said.producer, said.at_us),
                    *(self.held_text, self.held_via),
                    task
                    and (
                        *(task.text, task.started_at_us, task.via, task.intent, task.intent_elapsed_us),
                        *(task.answer, task.answer_elapsed_us, task.is_processed, task.ends),
                    ),
                    playback
                    and (
                        *(playback.playback_id, playback.text, playback.ends, playback.chunks, playback.audio_ms),
                        *(playback.total_ms, playback.position_ms, playback.position_at_us),
                        *(playback.is_paused and playback.paused_at_us, len(playback.words)),
                    ),
                    guess
                    and (
                        *(guess.number, guess.text, guess.intent, guess.intent_elapsed_us),
                        *(guess.answer, guess.answer_elapsed_us),
                    ),
                    *(self.tries, self.answer_failures, self.speech_failures, self.away_prompts, self.limits),
                    list(self.pending),
                    list(self.producers.items()),
                    self.recent_ids,
                ]
            )
        )
