"""The history of a session as a pure fold: from the steps of its log to the rows that the tables hold of it.

What the fold remembers is the rows themselves, so a process that was killed goes on from what the tables say.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from events import derived, inputs
from events.codec import decode
from events.envelope import Derived, Event
from projections.timing import STAGES, Latency, TurnTimes, TurnTiming

Row = dict[str, Any]
Step = Sequence[tuple[Event, bytes]]
"""An input and all it led to, each with its canonical line."""


@dataclass(slots=True)
class Changes:
    """Rows to be written: those that are new, and those that have changed, once each."""

    events: list[Row] = field(default_factory=list)
    transitions: list[Row] = field(default_factory=list)
    sessions: dict[str, Row] = field(default_factory=dict)
    turns: dict[tuple[str, int], Row] = field(default_factory=dict)
    transcript: dict[tuple[str, int], Row] = field(default_factory=dict)

    def add(self, more: "Changes") -> None:
        """Changes of other sessions, to be written together with these."""
        self.events += more.events
        self.transitions += more.transitions
        self.sessions |= more.sessions
        self.turns |= more.turns
        self.transcript |= more.transcript


def new_session(session_id: str, shard: int) -> Row:
    """The row of a session of which nothing has been seen."""
    return {
        "session_id": session_id,
        "shard": shard,
        "version": 0,
        "phase": "NEW",
        "reducer_version": "",
        "opened_us": 0,
        "last_us": 0,
        "ended_us": None,
        "end_reason": "",
        "turns": 0,
        "interruptions": 0,
        "rejected": 0,
        "take_overs": 0,
        "quiet_us": 0,
        "finished_us": 0,
    }


class SessionHistory:
    """One session: its row, its open turn and the answers that are being spoken."""

    def __init__(self, session: Row, turn: Row | None = None, speaking: Iterable[Row] = ()) -> None:
        self.session = session
        self._turn = turn
        self._speaking: dict[str, Row] = {row["playback_id"]: row for row in speaking}
        self._timing = _timing(session, turn)

    @property
    def session_id(self) -> str:
        return str(self.session["session_id"])

    @property
    def version(self) -> int:
        """The last version that is folded."""
        return int(self.session["version"])

    def take(self, step: Step, into: Changes) -> None:
        """Fold one step. Raises GapError unless it begins where the last one ended."""
        is_rejected = any(isinstance(event, derived.EventRejected) for event, _ in step)
        for event, line in step:
            if event.version != self.version + 1:
                raise GapError(f"{self.session_id}: version {event.version} follows {self.version}")
            self.session["version"] = event.version
            self.session["last_us"] = event.at_us
            into.events.append(_archived(self.session_id, event, line))
            before = self._timing.turn
            latency = self._timing.see(event)
            if isinstance(event, Derived):
                self._say(event, into)
            elif not is_rejected:
                self._hear(event, into)
            self._time(self._timing.turn or before, latency, into)
        into.sessions[self.session_id] = self.session

    def _hear(self, event: Event, into: Changes) -> None:
        """An input that had an effect."""
        match event:
            case inputs.SessionOpened():
                self.session["opened_us"] = event.at_us
                self.session["reducer_version"] = event.reducer_version
            case inputs.SessionResumed():
                self.session["take_overs"] += 1
            case inputs.IntentResolved():
                self._in_turn("intent_us", event.elapsed_us, into)
            case inputs.RagAnswered():
                self._in_turn("answer_us", event.elapsed_us, into)

    def _time(self, times: TurnTimes | None, latency: Latency | None, into: Changes) -> None:
        """Keep what is known of the turn's stages, and what their timing remembers."""
        self.session["quiet_us"], self.session["finished_us"] = self._timing.quiet_us, self._timing.finished_us
        if times is None:
            return
        for stage, us in times.stages_us.items():
            self._in_turn(f"{stage}_us", us, into)
        if times.playback_id:
            self._in_turn("playback_id", times.playback_id, into, instead_of="")
        if latency is not None:
            self._in_turn("response_us", latency.total_us, into)

    def _say(self, event: Derived, into: Changes) -> None:
        match event:
            case derived.StateChanged():
                self.session["phase"] = event.to_phase
                into.transitions.append(_transition(self.session_id, event))
            case derived.TurnStarted():
                self._start_turn(event, into)
            case derived.ProcessingComplete():
                for column in ("intent", "fallback"):
                    self._in_turn(column, getattr(event, column), into, instead_of="")
                self._in_turn("saved_us", event.saved_us, into)
            case derived.CommandIssued(name="Speak" | "PlayFiller"):
                self._speak(event, into)
            case derived.AnswerEnded():
                self._end_answer(event, into)
            case derived.TurnEnded() if self._turn is not None:
                self._turn |= {"ended_us": event.at_us, "outcome": event.outcome}
                self._mark(into)
                self._turn = None
            case _:
                self._count(event)

    def _count(self, event: Derived) -> None:
        """What only the session's own row says."""
        match event:
            case derived.UserInterrupted():
                self.session["interruptions"] += 1
            case derived.EventRejected():
                self.session["rejected"] += 1
            case derived.SessionEnded():
                self.session |= {"ended_us": event.at_us, "end_reason": event.reason}

    def _start_turn(self, event: derived.TurnStarted, into: Changes) -> None:
        self.session["turns"] = event.turn
        self._turn = {
            "session_id": self.session_id,
            "turn": event.turn,
            "via": event.via,
            "text": event.text,
            "speculation": event.speculation,
            "intent": "",
            "fallback": "",
            "outcome": "",
            "started_us": event.at_us,
            "ended_us": None,
            "playback_id": "",
            "intent_us": None,
            "answer_us": None,
            "saved_us": None,
            **{f"{stage}_us": None for stage in STAGES},
            "response_us": None,
        }
        self._mark(into)
        row = _said(self.session_id, event, "user", "", event.text)
        into.transcript[self.session_id, event.version] = row | {"outcome": "heard", "heard_text": event.text}

    def _in_turn(self, column: str, value: Any, into: Changes, instead_of: Any = None) -> None:
        """The first value counts: a second one is a repetition after a take-over."""
        if self._turn is not None and self._turn[column] == instead_of:
            self._turn[column] = value
            self._mark(into)

    def _mark(self, into: Changes) -> None:
        assert self._turn is not None, "marked by those who have just changed it"
        into.turns[self.session_id, self._turn["turn"]] = self._turn

    def _speak(self, event: derived.CommandIssued, into: Changes) -> None:
        """An answer that is asked for again after a take-over is the same answer."""
        playback_id = str(event.payload["playback_id"])
        if playback_id in self._speaking:
            return
        row = _said(self.session_id, event, "agent", playback_id, str(event.payload["text"]))
        if event.name == "PlayFiller":
            row["outcome"] = "filler"
        else:
            self._speaking[playback_id] = row
        into.transcript[self.session_id, event.version] = row

    def _end_answer(self, event: derived.AnswerEnded, into: Changes) -> None:
        row = self._speaking.pop(event.playback_id, None)
        if row is None:
            return  # it failed before anything of it was asked for
        row |= {"outcome": event.outcome, "heard_text": event.heard_text, "heard_ms": event.heard_ms}
        row["chunks"] = event.chunks
        into.transcript[self.session_id, row["version"]] = row


class GapError(Exception):
    """Something is missing between what is known and what came; the message says where."""


def steps(lines: Iterable[bytes]) -> Iterator[list[tuple[Event, bytes]]]:
    """The steps of a log: an input begins each. Raises BadEventError."""
    step: list[tuple[Event, bytes]] = []
    for line in lines:
        event = decode(line)
        if step and not isinstance(event, Derived):
            yield step
            step = []
        step.append((event, line))
    if step:
        yield step


def _timing(session: Row, turn: Row | None) -> TurnTiming:
    """Where the rows say that it stands."""
    times = None
    if turn is not None and turn["response_us"] is None:
        stages_us = {stage: us for stage in STAGES if (us := turn[f"{stage}_us"]) is not None}
        before_us = stages_us.get("endpointing", 0) + stages_us.get("transcription", 0)
        times = TurnTimes(turn["started_us"] - before_us, stages_us, turn["playback_id"])
    return TurnTiming(session["quiet_us"], session["finished_us"], times)


def folded(session_id: str, shard: int, lines: Iterable[bytes]) -> Changes:
    """All rows of a session, from the first line of its log on. Raises BadEventError, GapError."""
    changes, history = Changes(), SessionHistory(new_session(session_id, shard))
    for step in steps(lines):
        history.take(step, changes)
    return changes


def _archived(session_id: str, event: Event, line: bytes) -> Row:
    return {
        "session_id": session_id,
        "version": event.version,
        "type": event.blank["type"],
        "at_us": event.at_us,
        "turn": event.turn,
        "line": line.decode(),
    }


def _transition(session_id: str, event: derived.StateChanged) -> Row:
    return {
        "session_id": session_id,
        "version": event.version,
        "at_us": event.at_us,
        "turn": event.turn,
        "from_phase": event.from_phase,
        "to_phase": event.to_phase,
        "reason": event.reason,
    }


def _said(session_id: str, event: Derived, speaker: str, playback_id: str, text: str) -> Row:
    return {
        "session_id": session_id,
        "version": event.version,
        "at_us": event.at_us,
        "turn": event.turn,
        "speaker": speaker,
        "playback_id": playback_id,
        "text": text,
        "heard_text": "",
        "heard_ms": None,
        "chunks": None,
        "outcome": "",
    }
