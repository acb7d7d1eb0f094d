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
from events.inputs import AnswerText, SessionOpened, SttFinal, SttPartial, TimerFired
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.commands import answers
from orchestrator.session.digest import digest
from orchestrator.session.fields import Part, hashed_form, kept, newest_schema
from orchestrator.session.phrases import are_alike, normal
from orchestrator.session.policy import Policy

ANSWER_CHARS = 8_000
"""Longest answer, in characters: an event cannot hold a longer text."""
_PRODUCERS_HASHED = 32
_IDS_HASHED = 64
"""How many of the newest producers (_PRODUCERS_HASHED) and of the newest event ids (_IDS_HASHED) the state hash covers.
Do not change these numbers: the hashes of old recordings would change.
"""


def _newest(marks: dict[str, int]) -> list[tuple[str, int]]:
    items = marks.items()
    if len(items) <= _PRODUCERS_HASHED:
        return [*items]
    return [*islice(reversed(items), _PRODUCERS_HASHED)][::-1]


@dataclass(frozen=True)
class Findings(Part):
    """Results of the services for a question. `intent` and `answer` are None until the result comes. An empty intent:
    the turn continues without an intent.
    """

    intent: str | None = None
    intent_elapsed_us: int = 0
    answer: str | None = None
    """The whole answer; None: the answer is not complete."""
    answer_elapsed_us: int = 0
    """Microseconds from the question to the whole answer or, if the answer comes in texts, to its first text."""
    texts: tuple[str, ...] = kept((), since=4, form=len)
    """The texts of the answer that have come so far. Empty: the answer came as a whole, or has not come yet."""

    calls: int = kept(0, since=5)
    """Number of tool calls that were run for the question. Rejected calls do not count."""
    facts_from: int = kept(0, since=5)
    """Version of the first event in the session's log that belongs to the journal of the question: a tool call or a
    response of the model. 0: there is no such event.
    """

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
    """Whether the answer to speak is decided (PROCESSING_COMPLETE). In THINKING, the answer then waits until the user
    stops speaking.
    """
    ends: str = ""
    """The reason for which the session ends after this answer; empty: the session continues."""


@dataclass(frozen=True)
class OpenSpeculation(Part):
    """Questions asked about an utterance before it is complete. `number`: 1 for the first speculation about the
    utterance, 2 for the second, and so on. `text`: the words asked about. `found`: the results so far.
    """

    number: int
    text: str
    found: Findings = NOTHING_FOUND


@dataclass(frozen=True)
class Utterance(Part):
    """The last final. `words`, `producer` and `at_us`: its words, producer and time. `spoken`, `spoken_by` and
    `spoken_at_us`: the same of the last final that was spoken, not typed.
    """

    words: str
    """The words of the final in lower case, without punctuation. `words`, `producer` and `at_us` are kept only because
    the hashes of old recordings cover them.
    """
    producer: str
    at_us: int
    spoken: str = kept("", since=2)
    spoken_by: str = kept("", since=2)
    spoken_at_us: int = kept(0, since=2)
    is_late: bool = kept(False, since=7)
    """Whether no final came in time. `spoken` has the words of the last partial, and the final may still come."""


@dataclass(frozen=True)
class Playback(Part):
    """The current playback. At the time `position_at_us`, the user had heard `position_ms` of its audio; since then,
    the heard position advances with the time. If `position_at_us` is 0, the heard position stands still.
    """

    playback_id: str
    text: str
    ends: str = ""
    """The reason for which the session ends after this playback; empty: the session continues."""
    chunks: int = 0
    audio_ms: int = 0
    total_ms: int | None = None
    """Length of the whole audio; None: synthesis is not complete, so the length is not known."""
    position_ms: int = 0
    position_at_us: int = 0
    paused_at_us: int | None = kept(None, form=lambda us: False if us is None else us)
    """When the playback was paused; None: it is not paused."""
    words: tuple[tuple[int, str], ...] = kept((), form=len)
    """(start in ms of audio, word) for each word whose start the synthesiser has reported so far."""
    is_open: bool = kept(False, since=4)
    """Whether more texts of the answer follow, because the agent is still writing them."""
    ends_at: tuple[int, ...] = kept((), since=4)
    """For an answer that comes in texts: for each text, its end as an index in `text`. Otherwise empty."""
    begins_ms: tuple[int, ...] = kept((), since=4)
    """Where in the audio the speech of each text begins, in ms; only for texts whose speech has begun."""
    is_shown: bool = kept(False, since=4)
    """Whether the client shows the answer as text: all of it then counts as heard. Only for an answer in texts."""
    next_chunk: int = kept(0, since=4)
    """Index of the next speech chunk of the current Speak, for an answer that came in texts. A chunk with a lower index
    is a duplicate.
    """

    @property
    def owes_audio(self) -> bool:
        """Whether audio is due. False only while the playback waits for the next text: the answer is not complete, and
        the speech of each text so far has begun.
        """
        return not self.is_open or len(self.begins_ms) < len(self.ends_at)

    def text_at(self, position_ms: int) -> int:
        """Return the index, from 0, of the text that is spoken at this position of the audio."""
        begun = sum(begin_ms <= position_ms for begin_ms in self.begins_ms)
        return max(0, begun - 1)

    def texts_from(self, index: int) -> tuple[str, ...]:
        """The texts of the answer from this index on. An answer that came as a whole counts as one text."""
        begins = (0, *self.ends_at)
        return tuple(self.text[a:b] for a, b in zip(begins[index:], self.ends_at[index:], strict=False)) or (self.text,)

    @property
    def is_paused(self) -> bool:
        return self.paused_at_us is not None

    @property
    def is_interruptible(self) -> bool:
        """Whether the user may interrupt this playback. False for the farewell of a session that ends at its time limit
        or after too many failures. True otherwise, also for the farewell after the user's goodbye or silence.
        """
        return self.ends in ("", "goodbye", "user_away")


@dataclass
class State:
    """The state of a session. Each step copies the state once, and evolve changes the copy: a State never changes after
    its step.

    A field is declared only here: copies, the hash and snapshots follow from the declaration. A new field names the
    state schema that introduces it, such as `kept(0, since=2)`; see docs/extending.md.
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
    """The state schema of the program that opened the session. The hash covers the fields of this schema."""
    owner: str = ""
    """The incarnation that last opened or resumed the session."""
    node: str = ""
    """Name of the node that owns the session. The producer of each input from this node is called `node` or
    `node:part`. Connection events (of client and handler) from another node have no effect.
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
    """`held_text`: words said during an interruption. They start a turn when the phase becomes LISTENING. `held_via`:
    "speech" or "text" (typed).
    """
    task: Turn | None = None
    playback: Playback | None = None
    speculation: OpenSpeculation | None = None
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
    hearing_failures: int = kept(0, since=3, on={TurnStarted: lambda *_: 0})
    """Number of utterances in a row that speech-to-text lost."""
    pause_ms: int = kept(0, since=6)
    """Estimate of how long this user pauses within an utterance (pauses.py). 0: no pause was heard yet."""
    pending: dict[str, CommandIssued] = kept(factory=dict, form=list)
    """All outstanding commands: command_id → command."""
    producers: dict[str, int] = kept(factory=dict, form=_newest)
    """Producer → its highest producer_seq so far; the most recent producer comes last."""
    recent_ids: tuple[str, ...] = kept((), form=itemgetter(slice(-_IDS_HASHED, None)))
    """Ids of the latest inputs without a `producer_seq`. Duplicates of older inputs are not recognised."""

    def copy(self) -> "State":
        """Return a copy that shares all values with the state, except its dicts: evolve changes the dicts in place."""
        state = object.__new__(State)
        state.__dict__ = held = self.__dict__.copy()
        for name in _DICTS:
            held[name] = held[name].copy()
        return state

    def outstanding(self, *names: str) -> list[CommandIssued]:
        """The outstanding commands of these names, in the order they were issued."""
        return [command for command in self.pending.values() if command.name in names]

    def is_from_the_owner(self, producer: str) -> bool:
        """Whether the producer of an event belongs to the node that last opened or resumed the session."""
        return producer.partition(":")[0] == self.node

    def timer(self, name: str) -> CommandIssued | None:
        """Return the StartTimer command of the running timer of this name; None: the timer is not running."""
        for command in self.pending.values():
            if command.target == name and command.name == "StartTimer":
                return command
        return None

    def armed(self, *timers: str) -> list[CommandIssued]:
        """Return the StartTimer command of each named timer that is running, in the order of the names."""
        found = [one for one in self.pending.values() if one.target in timers and one.name == "StartTimer"]
        return sorted(found, key=lambda one: timers.index(one.target)) if len(found) > 1 else found

    def answered(self, result: Result) -> CommandIssued | None:
        """The outstanding command that a result answers; None: the result is stale."""
        command = self.pending.get(result.command_id)
        return command if command is not None and answers(result, command) else None

    @property
    def found(self) -> Findings:
        """The results so far of the services for the current question: the question of the open turn or, if no turn is
        open, of the speculation.
        """
        asked = self.task or self.speculation
        return asked.found if asked is not None else NOTHING_FOUND

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts in which the answer to the current question has come so far."""
        return self.found.texts

    def awaits_text(self, event: AnswerText) -> bool:
        """Whether an ANSWER_TEXT is the next text of the answer to the current question. False for an empty text, and
        for a text that makes the answer longer than ANSWER_CHARS: decisions reject both.
        """
        found = self.found
        return (
            (self.task is not None or self.speculation is not None)
            and found.answer is None
            and event.index == len(found.texts)
            and 0 < len(event.text) <= ANSWER_CHARS - sum(map(len, found.texts))
        )

    def has_rules_of(self, schema: int) -> bool:
        """Whether the session was opened under this state schema or a later one. A decision that changed with a schema
        calls `has_rules_of`, so that recordings of earlier sessions replay with the earlier decision.
        """
        return self.schema >= schema

    def _late(self, at_us: int) -> Utterance | None:
        """Return the last utterance if its final is late and may still come at the time `at_us`; otherwise None. A late
        final may come until `stt_ms` after the words of the last partial have counted in its place.
        """
        last = self.utterance
        is_recent = last is not None and at_us <= last.spoken_at_us + self.policy.deadlines.stt_ms * 1000
        return last if last is not None and last.is_late and is_recent else None

    def late_words(self, at_us: int) -> str:
        """Return the words that counted in place of a late final, if this final may still come at `at_us`, and the user
        has not begun to speak again. Otherwise "".
        """
        late = self._late(at_us)
        return late.spoken if late is not None and self.speech_started_at_us <= late.spoken_at_us else ""

    def repeats(self, final: SttFinal) -> bool:
        """Whether the words of a final have counted already. There are two cases:

        - A late final: a partial with the same words has counted in its place. Exception: the final may be of a newer
          utterance (`_may_be_of_the_next`).
        - Another producer reported the same words within the last `stt_ms`: two recognisers heard one utterance.

        False for typed words: they are always an utterance of their own.
        """
        last = self.utterance
        if last is None or final.via != "speech":
            return False
        if last.is_late:
            is_candidate = self._late(final.at_us) is not None and not self._may_be_of_the_next(last, final)
        else:
            in_time = final.at_us <= last.spoken_at_us + self.policy.deadlines.stt_ms * 1000
            is_candidate = last.spoken_by != final.producer and in_time
        return is_candidate and bool(last.spoken) and are_alike(last.spoken, final.text.strip())

    def _may_be_of_the_next(self, last: Utterance, final: SttFinal) -> bool:
        """Whether a final may be of a newer utterance than `last`. False unless the session waits for such a final
        (timer `stt_deadline`). If the VAD has heard speech since `last`, the final must begin with the current partial.
        """
        if self.timer("stt_deadline") is None:
            return False
        has_spoken = self.speech_started_at_us > last.spoken_at_us
        return not has_spoken or normal(final.text).startswith(normal(self.partial_text))

    def is_old(self, partial: SttPartial) -> bool:
        """Whether a partial repeats the words of the last utterance within `stt_ms`, before the user begins to speak
        again. Such a partial changes nothing, and no decision sees it. Always False before state schema 7.
        """
        last = self.utterance
        if last is None or not last.spoken or not self.has_rules_of(7) or self.speech_started_at_us > last.spoken_at_us:
            return False
        in_time = partial.at_us <= last.spoken_at_us + self.policy.deadlines.stt_ms * 1000
        return in_time and are_alike(last.spoken, partial.text)

    def is_awaited(self, final: SttFinal) -> bool:
        """Whether the session waits for this final (timer `stt_deadline`). False if the words of the final have counted
        already and do not begin with the current partial: the session then waits for another final.
        """
        is_other = self.repeats(final) and not normal(final.text).startswith(normal(self.partial_text))
        return self.timer("stt_deadline") is not None and not is_other

    def has_seen(self, producer: str, producer_seq: int, event_id: str) -> bool:
        """Whether an input with this producer, `producer_seq` and event id is a duplicate. An input with a
        `producer_seq` is recognised by this number, any other input by its event id.
        """
        if producer_seq:
            return producer_seq <= self.producers.get(producer, 0)
        return bool(event_id) and event_id in self.recent_ids

    def hash(self) -> str:
        """Return a digest of the fields in the session's state schema. The policy never changes, and is left out."""
        return digest(to_json(_hashed_form(self.schema)(self)))


@cache
def _hashed_form(schema: int) -> Callable[[State], list[Any]]:
    return hashed_form(State, schema)


_DICTS = tuple(field.name for field in fields(State) if field.default_factory is dict)
STATE_SCHEMA = newest_schema(State)
"""Today's state schema, computed from the fields. SESSION_OPENED records it."""


def opening(policy: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of SESSION_OPENED for a session that this program opens."""
    return {"policy": policy, "reducer_version": REDUCER_VERSION, "state_schema": STATE_SCHEMA}


def why_unreadable(opened: SessionOpened) -> str:
    """Return why this program cannot fold the log that begins with this SESSION_OPENED; empty: it can fold the log."""
    if opened.state_schema <= STATE_SCHEMA:
        return ""
    return f"a newer orch opened it: state schema {opened.state_schema}, this one knows {STATE_SCHEMA}"
