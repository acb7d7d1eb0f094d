"""The state of a session, folded from its log."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from itertools import islice
from operator import itemgetter
from typing import Any

from pydantic_core import to_json

from events.derived import CommandIssued, Phase, StateChanged, TurnStarted
from events.envelope import Result
from events.inputs import AnswerText, HearingFailed, SessionOpened, SttFinal, TimerFired
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.commands import answers
from orchestrator.session.digest import digest
from orchestrator.session.fields import Part, hashed_form, kept, newest_schema
from orchestrator.session.phrases import are_alike, normal
from orchestrator.session.policy import Policy

ANSWER_CHARS = 8_000
"""Longest answer, in characters: the longest text of an event."""
_PRODUCERS_HASHED = 32
_IDS_HASHED = 64
"""The hash covers only the newest producers and ids, as it always has. More would slow every step of a session with
many producers."""


def _newest(marks: dict[str, int]) -> list[tuple[str, int]]:
    items = marks.items()
    if len(items) <= _PRODUCERS_HASHED:
        return [*items]
    return [*islice(reversed(items), _PRODUCERS_HASHED)][::-1]


@dataclass(frozen=True)
class Findings(Part):
    """Results of the services for a question. None: no result yet; an empty intent: the turn continues without one."""

    intent: str | None = None
    intent_elapsed_us: int = 0
    answer: str | None = None
    """The whole answer; None: the answer is not complete."""
    answer_elapsed_us: int = 0
    """Time to the whole answer or, if it comes in texts, to its first text, in microseconds."""
    texts: tuple[str, ...] = kept((), since=4, form=len)
    """The answer so far, in the texts in which it comes. Empty: the answer came as a whole, or has not come yet."""

    calls: int = kept(0, since=5)
    """Number of tool calls that the agent has asked for."""
    facts_from: int = kept(0, since=5)
    """Version of the first fact of the agent's work on the question (events/journal.py). 0: there is none."""

    @property
    def is_begun(self) -> bool:
        """Whether the answer, or its first text, has come."""
        return self.answer is not None or bool(self.texts)


NOTHING_FOUND = Findings()


@dataclass(frozen=True)
class Turn(Part):
    """The open turn: the user's words, when it began, and the results of the services so far."""

    text: str
    started_at_us: int
    via: str = "speech"
    found: Findings = NOTHING_FOUND
    is_processed: bool = False
    """Whether the answer is decided. In THINKING it then waits until the user stops speaking."""
    ends: str = ""
    """Why the session ends with this answer; empty: the session continues."""


@dataclass(frozen=True)
class Speculation(Part):
    """Questions asked about an utterance before it is complete: attempt number, text, and results so far."""

    number: int
    text: str
    found: Findings = NOTHING_FOUND


@dataclass(frozen=True)
class Utterance(Part):
    """Words, producer and time of the last final; `spoken*`: the same for the last spoken (not typed) final."""

    words: str
    """Letters and digits. Used, like `producer` and `at_us`, only in the hash, as in the first recordings."""
    producer: str
    at_us: int
    spoken: str = kept("", since=2)
    spoken_by: str = kept("", since=2)
    spoken_at_us: int = kept(0, since=2)


@dataclass(frozen=True)
class Playback(Part):
    """The current playback. At time `position_at_us` the user had heard `position_ms` of it, and hears on from there;
    if `position_at_us` is 0, the position stands still.
    """

    playback_id: str
    text: str
    ends: str = ""
    """Why the session ends after this playback; empty: the session continues."""
    chunks: int = 0
    audio_ms: int = 0
    total_ms: int | None = None
    """Length of the whole audio; None: not known yet."""
    position_ms: int = 0
    position_at_us: int = 0
    paused_at_us: int | None = kept(None, form=lambda us: False if us is None else us)
    """When the playback was paused; None: it is not paused."""
    words: tuple[tuple[int, str], ...] = kept((), form=len)
    """(start in ms of audio, word) for each word that the synthesiser has timed so far."""
    is_open: bool = kept(False, since=4)
    """Whether more of the answer follows, because it is still being written."""
    ends_at: tuple[int, ...] = kept((), since=4)
    """Where each text of an answer that came in texts ends in `text`, in characters. Empty: it came as a whole."""
    begins_ms: tuple[int, ...] = kept((), since=4)
    """Where the speech of each text in `ends_at` begins in the audio, in ms. Only texts synthesised so far."""
    is_shown: bool = kept(False, since=4)
    """Whether an answer that came in texts is shown, not spoken: the user counts as having heard all of it."""
    next_chunk: int = kept(0, since=4)
    """Index of the speech chunk that the current Speak gives next, for an answer that came in texts. A chunk with a
    lower index is a repetition.
    """

    @property
    def owes_audio(self) -> bool:
        """Whether audio may be expected now. False: the playback waits for more text of the answer."""
        return not self.is_open or len(self.begins_ms) < len(self.ends_at)

    def text_at(self, position_ms: int) -> int:
        """The number of the text that is spoken at a position of the audio, counted from 0."""
        begun = sum(begin_ms <= position_ms for begin_ms in self.begins_ms)
        return max(0, begun - 1)

    def texts_from(self, index: int) -> tuple[str, ...]:
        """The texts of the answer from number `index` on. An answer that came as a whole counts as one text."""
        begins = (0, *self.ends_at)
        return tuple(self.text[a:b] for a, b in zip(begins[index:], self.ends_at[index:], strict=False)) or (self.text,)

    @property
    def is_paused(self) -> bool:
        return self.paused_at_us is not None

    @property
    def is_interruptible(self) -> bool:
        """Whether the user may interrupt: an answer, or a farewell caused by the user's goodbye or silence. Other last
        words, such as those of the time limit, are not interrupted.
        """
        return self.ends in ("", "goodbye", "user_away")


@dataclass
class State:
    """The state of a session. Each step copies the state once, and evolve changes the copy: a State never changes after
    its step.

    A field is declared only here: copies, the hash and snapshots follow from the declaration. A new field names the
    schema that introduces it, `kept(0, since=2)`: docs/extending.md.
    """

    session_id: str = ""
    phase: Phase = "NEW"
    version: int = 0
    inputs: int = 0
    turn: int = 0
    epoch: int = 0
    at_us: int = 0
    policy: Policy = kept(factory=Policy, is_hashed=False)
    schema: int = kept(1, is_hashed=False)
    """The state schema of the program that opened the session. It selects the fields that the hash covers."""
    owner: str = ""
    """The incarnation that opened or resumed the session."""
    node: str = ""
    """The owner's node, the first part of its producers' names (`node` or `node:part`). Only this node's connection
    events count.
    """
    client_id: str = ""
    handler_id: str = ""
    user_is_speaking: bool = False
    speech_started_at_us: int = 0
    speech_stopped_at_us: int = 0
    partial_text: str = ""
    partial_at_us: int = 0
    """When `partial_text` last changed."""
    partial_is_complete: bool = False
    utterance: Utterance | None = None
    held_text: str = ""
    held_via: str = ""
    """`held_text` and `held_via`: words said during an interruption, which wait for LISTENING."""
    task: Turn | None = None
    playback: Playback | None = None
    speculation: Speculation | None = None
    tries: int = 0
    """Number of speculations for the current utterance."""
    answer_failures: int = 0
    speech_failures: int = 0
    """`answer_failures` and `speech_failures` count failures in a row."""
    away_prompts: int = kept(
        0, on={StateChanged: lambda prompts, event: prompts + (event.reason == "user_away"), TurnStarted: lambda *_: 0}
    )
    """Prompts to a silent user since the user's last words."""
    limits: int = kept(0, on={TimerFired: lambda limits, event: limits + (event.target == "session_limit")})
    """How often the timer `session_limit` has fired."""
    hearing_failures: int = kept(
        0,
        since=3,
        on={
            HearingFailed: lambda failures, event: failures + event.is_utterance_lost,
            TurnStarted: lambda *_: 0,
        },
    )
    """Utterances that speech-to-text lost in a row."""
    pause_ms: int = kept(0, since=6)
    """How long this caller pauses within an utterance (pauses.py). 0: no pause was heard yet."""
    pending: dict[str, CommandIssued] = kept(factory=dict, form=list)
    """All outstanding commands: command_id → command."""
    producers: dict[str, int] = kept(factory=dict, form=_newest)
    """High-water mark of producer_seq per producer, the most recent last."""
    recent_ids: tuple[str, ...] = kept((), form=itemgetter(slice(-_IDS_HASHED, None)))
    """Ids of the last inputs without a sequence: a bounded window, so deduplication of those is best effort."""

    def copy(self) -> "State":
        """A copy that shares its values, except the dicts, which evolve changes in place."""
        state = object.__new__(State)
        state.__dict__ = held = self.__dict__.copy()
        for name in _DICTS:
            held[name] = held[name].copy()
        return state

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
        """The StartTimer commands of those of the named timers that are armed, in the given order."""
        found = [one for one in self.pending.values() if one.target in timers and one.name == "StartTimer"]
        return sorted(found, key=lambda one: timers.index(one.target)) if len(found) > 1 else found

    def answered(self, result: Result) -> CommandIssued | None:
        """The outstanding command that a result answers; None: the result is stale."""
        command = self.pending.get(result.command_id)
        return command if command is not None and answers(result, command) else None

    @property
    def found(self) -> Findings:
        """The results so far of the services for the current question: that of the open turn or, without a turn, the
        question asked early (speculation).
        """
        asked = self.task or self.speculation
        return asked.found if asked is not None else NOTHING_FOUND

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts in which the answer to the current question has come so far."""
        return self.found.texts

    def awaits_text(self, event: AnswerText) -> bool:
        """Whether this is the next text of the answer to the current question, and short enough."""
        found = self.found
        return (
            (self.task is not None or self.speculation is not None)
            and found.answer is None
            and event.index == len(found.texts)
            and 0 < len(event.text) <= ANSWER_CHARS - sum(map(len, found.texts))
        )

    def said_by_another(self, final: SttFinal) -> bool:
        """Whether another producer has just reported the same words: one utterance heard by two recognisers.

        Only spoken words can be such a duplicate. Typed words are always an utterance of their own.
        """
        last = self.utterance
        return (
            last is not None
            and final.via == "speech"
            and last.spoken_by != final.producer
            and final.at_us <= last.spoken_at_us + self.policy.deadlines.stt_ms * 1000
            and bool(last.spoken)
            and are_alike(last.spoken, final.text.strip())
        )

    def is_awaited(self, final: SttFinal) -> bool:
        """Whether the end of an utterance waits for this final. It does not wait for another producer's duplicate if
        the partial transcript has other words by now.
        """
        is_other = self.said_by_another(final) and not normal(final.text).startswith(normal(self.partial_text))
        return self.timer("stt_deadline") is not None and not is_other

    def has_seen(self, producer: str, producer_seq: int, event_id: str) -> bool:
        """Whether an input is a duplicate."""
        if producer_seq:
            return producer_seq <= self.producers.get(producer, 0)
        return bool(event_id) and event_id in self.recent_ids

    def hash(self) -> str:
        """A digest of the fields that the session's state schema has. Leaves out the policy, which never changes."""
        return digest(to_json(_hashed_form(self.schema)(self)))


@cache
def _hashed_form(schema: int) -> Callable[[State], list[Any]]:
    return hashed_form(State, schema)


_DICTS = tuple(field.name for field in fields(State) if field.default_factory is dict)
STATE_SCHEMA = newest_schema(State)
"""Today's state schema, which SESSION_OPENED records. Derived from the fields."""


def opening(policy: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of SESSION_OPENED for a session that this program opens."""
    return {"policy": policy, "reducer_version": REDUCER_VERSION, "state_schema": STATE_SCHEMA}


def why_unreadable(opened: SessionOpened) -> str:
    """The reason why this program cannot fold a session's log; empty: it can."""
    if opened.state_schema <= STATE_SCHEMA:
        return ""
    return f"a newer orch opened it: state schema {opened.state_schema}, this one knows {STATE_SCHEMA}"
