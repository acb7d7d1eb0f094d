"""Folds the steps of a session's log into the rows of the history tables. Pure.

The rows are the only state of the fold: a new process continues from the rows in the tables.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from events import derived, inputs
from events.codec import BadEventError, decode
from events.envelope import Derived, Event
from orchestrator.session.commands import PLAYS
from projections.history.agent_rows import AgentRows
from projections.history.agent_rows import Row as Row
from projections.timing import STAGES, Latency, TurnTimes, TurnTiming

Step = Sequence[tuple[Event, bytes]]
"""An input and its derived events, each with its line in the log (canonical JSON)."""


@dataclass(slots=True)
class Changes:
    """New and changed rows to write, one field per table. Rows in a list are new. Rows in a dict may replace rows with
    the same key.
    """

    events: list[Row] = field(default_factory=list)
    transitions: list[Row] = field(default_factory=list)
    sessions: dict[str, Row] = field(default_factory=dict)
    turns: dict[tuple[str, int], Row] = field(default_factory=dict)
    transcript: dict[tuple[str, int], Row] = field(default_factory=dict)
    tool_calls: dict[tuple[str, int], Row] = field(default_factory=dict)
    model_responses: list[Row] = field(default_factory=list)

    def add(self, more: "Changes") -> None:
        """Add the changes of other sessions, for one transaction."""
        self.events += more.events
        self.transitions += more.transitions
        self.sessions |= more.sessions
        self.turns |= more.turns
        self.transcript |= more.transcript
        self.tool_calls |= more.tool_calls
        self.model_responses += more.model_responses


def new_session(session_id: str, shard: int) -> Row:
    """The row of a session before its first event."""
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
    """Folds the steps of one session into rows. Holds the rows that may still change: of the session, of its open turn,
    of the answers being spoken, and of the running tool calls.
    """

    def __init__(
        self, session: Row, turn: Row | None = None, speaking: Iterable[Row] = (), calls: Iterable[Row] = ()
    ) -> None:
        self.session = session
        self._turn = turn
        self._speaking: dict[str, Row] = {row["playback_id"]: row for row in speaking}
        self._agent = AgentRows(self.session_id, calls)
        self._timing = _timing(session, turn)
        self._speaks_again = False
        """Whether the current step repeats speech, because the owner changed or the media connection was lost."""

    @property
    def session_id(self) -> str:
        return str(self.session["session_id"])

    @property
    def version(self) -> int:
        """Version of the last event folded."""
        return int(self.session["version"])

    def take(self, step: Step, into: Changes, *, may_have_gaps: bool = False) -> None:
        """Fold one step of the log; adds its new and changed rows to `into`. Raises GapError if a version is missing.

        `may_have_gaps`: accept missing versions, for damaged logs that are only shown, not stored.
        """
        is_rejected = any(isinstance(event, derived.EventRejected) for event, _ in step)
        self._speaks_again = isinstance(step[0][0], inputs.SessionResumed | inputs.HandlerDetached)
        for event, line in step:
            if event.version != self.version + 1 and not may_have_gaps:
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
        calls, responses = self._agent.take([event for event, _ in step])
        into.tool_calls |= {(self.session_id, row["version"]): row for row in calls}
        into.model_responses += responses
        into.sessions[self.session_id] = self.session

    def _hear(self, event: Event, into: Changes) -> None:
        """Apply an input to the rows. The calling code leaves out rejected inputs."""
        match event:
            case inputs.SessionOpened():
                self.session["opened_us"] = event.at_us
                self.session["reducer_version"] = event.reducer_version
            case inputs.SessionResumed():
                self.session["take_overs"] += 1
            case inputs.IntentResolved():
                self._in_turn("intent_us", event.elapsed_us, into)
            case inputs.AnswerText() | inputs.RagAnswered():
                self._in_turn("answer_us", event.elapsed_us, into)

    def _time(self, times: TurnTimes | None, latency: Latency | None, into: Changes) -> None:
        """Copy the measured response latency into the rows of the turn and of the session.

        `times`: the latency stages of the turn so far; None: no turn is measured. `latency`: the whole response
        latency, if the answer starts playing with this event; otherwise None. The session's row gets `quiet_us` and
        `finished_us` of TurnTiming, from which the measurement can be continued.
        """
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
            case derived.CommandIssued(name=name) if name in PLAYS:
                self._speak(event, into)
            case derived.CommandIssued(name="SpeakMore", payload=payload):
                self._speak_on(str(payload["playback_id"]), str(payload["text"]), into)
            case derived.AnswerEnded():
                self._end_answer(event, into)
            case derived.TurnEnded() if self._turn is not None:
                self._turn |= {"ended_us": event.at_us, "outcome": event.outcome}
                self._mark(into)
                self._turn = None
            case _:
                self._count(event)

    def _count(self, event: Derived) -> None:
        """Update the session's row: counters of interruptions and rejections, and the end of the session."""
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
        """Set a column of the open turn's row if the column still has its initial value `instead_of`. So a column keeps
        the first value that it gets, even if further texts of the answer or a retry bring other values.
        """
        if self._turn is not None and self._turn[column] == instead_of:
            self._turn[column] = value
            self._mark(into)

    def _mark(self, into: Changes) -> None:
        assert self._turn is not None, "callers have just changed it"
        into.turns[self.session_id, self._turn["turn"]] = self._turn

    def _speak(self, event: derived.CommandIssued, into: Changes) -> None:
        """Add a transcript row for a Speak or PlayFiller. A retry of a Speak gets no second row."""
        playback_id = str(event.payload["playback_id"])
        if playback_id in self._speaking:
            return
        row = _said(self.session_id, event, "agent", playback_id, str(event.payload["text"]))
        if event.name == "PlayFiller":
            row["outcome"] = "filler"
        else:
            self._speaking[playback_id] = row
        into.transcript[self.session_id, event.version] = row

    def _speak_on(self, playback_id: str, text: str, into: Changes) -> None:
        """Add the text of a SpeakMore to the transcript row of its answer, unless the step repeats speech
        (`_speaks_again`): the row then has this text already.
        """
        row = self._speaking.get(playback_id)
        if row is not None and text and not self._speaks_again:
            row["text"] += text
            into.transcript[self.session_id, row["version"]] = row

    def _end_answer(self, event: derived.AnswerEnded, into: Changes) -> None:
        row = self._speaking.pop(event.playback_id, None)
        if row is None:
            return  # the answer has no row: it failed before its Speak command
        row |= {"outcome": event.outcome, "heard_text": event.heard_text, "heard_ms": event.heard_ms}
        row["chunks"] = event.chunks
        into.transcript[self.session_id, row["version"]] = row


class GapError(Exception):
    """A version is missing between the events folded so far and the next event; the message says where."""


def steps(lines: Iterable[bytes]) -> Iterator[list[tuple[Event, bytes]]]:
    """Split a log into steps, each starting with an input. Raises BadEventError if a line is not an event."""
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
    """Restore the latency measurement of a session (TurnTiming) as it was after the last stored event. `turn`: the row
    of the open turn; None: no turn is open.
    """
    times = None
    if turn is not None and turn["response_us"] is None:
        stages_us = {stage: us for stage in STAGES if (us := turn[f"{stage}_us"]) is not None}
        before_us = stages_us.get("endpointing", 0) + stages_us.get("transcription", 0)
        times = TurnTimes(turn["started_us"] - before_us, stages_us, turn["playback_id"])
    return TurnTiming(session["quiet_us"], session["finished_us"], times)


def folded(session_id: str, shard: int, lines: Iterable[bytes]) -> Changes:
    """Fold the complete log of a session into all its rows. Raises BadEventError, or GapError for a missing version."""
    changes, history = Changes(), SessionHistory(new_session(session_id, shard))
    for step in steps(lines):
        history.take(step, changes)
    return changes


def folded_until_unreadable(session_id: str, shard: int, lines: Iterable[bytes]) -> tuple[Changes, str]:
    """Fold the log of a session up to the first event that cannot be read. Also returns why that event cannot be read;
    empty: all events were read.
    """
    changes, history = Changes(), SessionHistory(new_session(session_id, shard))
    changes.sessions[session_id] = history.session
    try:
        for step in steps(lines):
            history.take(step, changes)
    except (BadEventError, GapError) as error:
        return changes, str(error)
    return changes, ""


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
