"""Folds a session's log into the data of its page, step by step: events, states, bars in lanes, turns, words.

Whole pages and live pages share the fold: a page is the sum of its increments. Lanes and names come from the classes of
events and commands, so that a new event appears by itself.
"""

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, get_args

from pydantic_core import to_jsonable_python

from events.derived import AnswerEnded, CommandIssued, EventRejected, Phase, StateChanged, UserInterrupted
from events.envelope import Event, Input
from events.inputs import SessionOpened
from events.recording import steps
from orchestrator.console.changes import changes
from orchestrator.replay.fold_on import UnsoundLogError, fold_on
from orchestrator.replay.timeline import LANES
from orchestrator.replay.transcript import unheard
from orchestrator.replay.words import name, payload, state_fields
from orchestrator.session.commands import ANSWERS
from orchestrator.session.fsm import edges
from orchestrator.session.state import State
from projections import names
from projections.history.fold import Changes, Row, SessionHistory, new_session
from projections.span import Span
from projections.spans import SessionSpans
from projections.summary import summary
from projections.timing import STAGES
from projections.work_spans import STAGES as SPAN_OF

WHOLE_EVERY = 64
"""Steps between two whole states; a page applies at most so few changes to reach any step."""
TURNS, TIMERS, REJECTED = "TURNS", "TIMERS", "REJECTED"
ROWS = ("PHASE", TURNS, *LANES, TIMERS, REJECTED)
_LANE_OF_A_SPAN = {
    names.TURN: TURNS,
    names.USER_SPEECH: "USER",
    names.BARGE_IN: "USER",
    names.ENDPOINTING: "STT",
    names.SPEECH_TO_TEXT: "STT",
    names.PLAYBACK: "PLAYBACK",
}
REPLACED = {"said": "version", "turns": "turn"}
"""Parts whose rows replace earlier ones → the key of a row."""
_NOT_DRAWN = {names.SESSION, names.CALL}
_WORDS = ("text", "answer", "intent", "error", "result")
"""Fields of an event that label the bar that the event ends."""


@cache
def facts() -> dict[str, Any]:
    """What a page needs to know about every session: lanes, phases, phase changes, stages of a turn."""
    pairs = sorted({(before, after) for before, _, after in edges()})
    return {"edges": pairs, "lanes": ROWS, "phases": get_args(Phase), "stages": STAGES}


@lru_cache(256)
def lane_of(span: str) -> str:
    """The lane of a span: of a request, the lane of the result that ends its stage."""
    if span in _LANE_OF_A_SPAN:
        return _LANE_OF_A_SPAN[span]
    asking = {command for command, named in SPAN_OF.items() if named == span}
    own = ((kind, commands) for kind, commands in ANSWERS.items() if kind.ends_stage and kind.answers is not None)
    ends = (kind.lane for kind, commands in own if commands & asking)
    return next(filter(None, ends), "THINK")


class Drawing:
    """The page of one session. `add` returns the data of a step, `now` what each step replaces: together the page.

    >>> drawing = Drawing(log[0]); drawing.add(log[:3]); drawing.now()["summary"]["outcome"]
    'IDLE'
    """

    def __init__(self, first: Event) -> None:
        self.opened_us = first.at_us
        self.session_id = first.session_id
        self._state = State()
        self._fields: dict[str, Any] = state_fields(self._state)
        self._problem = ""
        """Why the state cannot be folded any further."""
        self._spans = SessionSpans(first)
        self._history = SessionHistory(new_session(first.session_id, 0))
        self._turns: dict[int, Row] = {}
        self._versions: dict[str, int] = {}
        """Event id → version."""
        self._turn_of: dict[int, int] = {}
        """Span id of a turn → its number."""
        self._tools: dict[str, int] = {}
        """Id of the event that runs a tool → the turn that called it, which the tool may outlive."""
        self._critical: dict[int, list[dict[str, Any]]] = {}
        """Turn → its closed bars."""
        self._timers: dict[str, dict[str, Any]] = {}
        self._phase: dict[str, Any] | None = None
        self._over: dict[str, str] = {}
        """Playback → words that the user said over it."""
        self._steps = 0

    @property
    def version(self) -> int:
        """The last version drawn."""
        return self._spans.version

    def add(self, step: Sequence[Event]) -> dict[str, Any]:
        """Fold a step of the log, an input with its derived events, into the page."""
        self._steps += 1
        before = set(self._state.pending)
        self._versions |= {event.event_id: event.version for event in step}
        rows, closed = self._fold(step), [span for event in step for span in self._spans.see(event)]
        for span in self._spans.open_spans():
            if span.name == names.TURN:
                self._turn_of[span.context.span_id] = int(span.attributes[names.TURN_INDEX])
        bars = [self._bar(span, step) for span in closed if span.name not in _NOT_DRAWN]
        bars += [*self._phases(step), *self._ended_timers(step, before)]
        turns = [self._turn(row) for row in rows.turns.values()]
        found: dict[str, Any] = {
            "bars": bars,
            "events": [self._event(event) for event in step],
            "said": [self._said(row) for row in rows.transcript.values()],
            "steps": [self._step(step)],
            "turns": turns,
        }
        if isinstance(step[0], SessionOpened):
            found["policy"] = step[0].policy
        if self._steps == 1:
            found["blank"] = to_jsonable_python(state_fields(State()))
        return found

    def now(self) -> dict[str, Any]:
        """The parts of the page that each step replaces: bars that have not ended, and the summary."""
        return {
            "open": self._open(),
            "summary": summary(self._history.session, self._turns.values(), "", "file").as_json(),
        }

    def _fold(self, step: Sequence[Event]) -> Changes:
        rows = Changes()
        self._history.take([(event, b"") for event in step], rows, may_have_gaps=True)
        self._turns |= {row["turn"]: row for row in rows.turns.values()}
        for event in step:
            if isinstance(event, CommandIssued) and event.name == "RunTool":
                self._tools[event.event_id] = event.turn
            if isinstance(event, UserInterrupted):
                self._over[event.playback_id] = event.text
            if isinstance(event, AnswerEnded):
                self._over.setdefault(event.playback_id, "")
            try:
                if not self._problem:
                    fold_on(self._state, event)
            except UnsoundLogError as error:
                self._problem = str(error)
        return rows

    def _step(self, step: Sequence[Event]) -> dict[str, Any]:
        new = self._fields if self._problem else to_jsonable_python(state_fields(self._state))
        found: dict[str, Any] = {"version": step[-1].version}
        if self._steps % WHOLE_EVERY == 1:
            found["whole"] = new
        found["changes"] = changes(self._fields, new)
        if self._problem:
            found["problem"] = self._problem
        self._fields = new
        return found

    def _event(self, event: Event) -> dict[str, Any]:
        is_input = isinstance(event, Input)
        found = {
            "at": event.at_us - self.opened_us,
            "cause": self._versions.get(event.cause, 0),
            "kind": "input" if is_input else "command" if isinstance(event, CommandIssued) else "event",
            "lane": REJECTED if isinstance(event, EventRejected) else event.lane,
            "name": name(event),
            "payload": to_jsonable_python(payload(event)),
            "turn": event.turn,
            "version": event.version,
        }
        return found | ({"about": event.target} if isinstance(event, CommandIssued) and event.target else {})

    def _bar(self, span: Span, step: Sequence[Event] = ()) -> dict[str, Any]:
        parent = span.parent.span_id if span.parent else 0
        if span.name == names.TURN:
            self._turn_of[span.context.span_id] = int(span.attributes[names.TURN_INDEX])
        turn = self._turn_of.get(span.context.span_id, self._turn_of.get(parent, 0))
        turn = self._tools.get(span.key, turn)
        bar = {
            "error": span.error,
            "facts": {key: value for key, value in span.attributes.items() if key != names.CONVERSATION_ID},
            "from": span.start_us - self.opened_us,
            "id": f"{span.context.span_id:016x}",
            "lane": lane_of(span.name),
            "links": [{"kind": link.kind, "to": f"{link.to.span_id:016x}"} for link in span.links],
            "name": span.name,
            "to": span.end_us - self.opened_us if span.end_us else None,
            "turn": turn,
            "version": self._versions.get(span.key, 0),
        }
        if step and (label := _label(bar, step[0], step[0].at_us - self.opened_us)):
            bar["label"] = label
        if step:
            self._critical.setdefault(turn, []).append(bar)
        return bar

    def _open(self) -> list[dict[str, Any]]:
        """Bars that have not ended: they replace those of the step before."""
        found = [self._bar(span) for span in self._spans.open_spans() if span.name not in _NOT_DRAWN]
        return [*found, *self._timers.values(), *([self._phase] if self._phase else [])]

    def _phases(self, step: Sequence[Event]) -> Iterable[dict[str, Any]]:
        for event in step:
            if not isinstance(event, StateChanged):
                continue
            if self._phase is not None:
                yield self._phase | {"to": event.at_us - self.opened_us}
            self._phase = _plain_bar("PHASE", event.to_phase, event, self.opened_us) | {"label": event.reason}
            if event.to_phase == "ENDED":
                yield self._phase | {"to": event.at_us - self.opened_us}
                self._phase = None

    def _ended_timers(self, step: Sequence[Event], before: set[str]) -> Iterable[dict[str, Any]]:
        """Draw each timer from its start until it fires or is withdrawn."""
        answered = getattr(step[0], "command_id", "")
        for event in step:
            if isinstance(event, CommandIssued) and event.name == "StartTimer":
                self._timers[event.command_id] = _plain_bar(TIMERS, event.target, event, self.opened_us)
        for command_id in [one for one in self._timers if one not in self._state.pending and one in before]:
            label = "fired" if command_id == answered else "withdrawn"
            yield self._timers.pop(command_id) | {"to": step[-1].at_us - self.opened_us, "label": label}

    def _said(self, row: Row) -> dict[str, Any]:
        kept = ("at_us", "heard_ms", "heard_text", "outcome", "playback_id", "speaker", "text", "turn", "version")
        found = {column: row[column] for column in kept} | {"at": row["at_us"] - self.opened_us}
        if row["speaker"] == "agent" and row["outcome"] not in ("", "filler"):
            rest = unheard(row["text"], row["heard_text"]) if row["outcome"] != "finished" else ""
            found |= {"unheard": rest, "said_over": self._over.get(row["playback_id"], "")}
        return found

    def _turn(self, row: Row) -> dict[str, Any]:
        """A turn with its stages from silence to the first audio, and the bars that each stage waited for."""
        before = sum(row[f"{stage}_us"] or 0 for stage in STAGES[:2])
        at = row["started_us"] - self.opened_us - before
        stages = []
        for stage in STAGES:
            if (us := row[f"{stage}_us"]) is not None:
                stages.append(
                    {"from": at, "name": stage, "to": at + us, "waits_for": self._waits_for(row, at, at + us)}
                )
                at += us
        kept = ("turn", "via", "text", "intent", "fallback", "outcome", "response_us", "playback_id")
        return {column: row[column] for column in kept} | {"stages": stages}

    def _waits_for(self, row: Row, begin: int, end: int) -> list[str]:
        """Ids of the bars that a stage waited for, the critical path: those that ended with it, else began in it."""
        bars = [bar for bar in self._critical.get(row["turn"], ()) if bar["lane"] != TURNS and bar["from"] < end]
        ended = [bar["id"] for bar in bars if bar["to"] == end > begin]
        return ended or [bar["id"] for bar in bars if begin <= bar["from"] and bar["to"] > end]


def drawn(log: Sequence[Event]) -> dict[str, Any]:
    """The whole page of a session's log.

    >>> drawn(log)["turns"][0]["response_us"]
    812000
    """
    drawing = Drawing(log[0])
    page: dict[str, Any] = {"opened_us": log[0].at_us, "session_id": log[0].session_id}
    rows: dict[str, dict[int, Any]] = {part: {} for part in REPLACED}
    for step in steps(log):
        for part, more in drawing.add(step).items():
            if part in REPLACED:
                rows[part] |= {row[REPLACED[part]]: row for row in more}
            elif isinstance(more, list):
                page.setdefault(part, []).extend(more)
            else:
                page[part] = more
    return page | {part: [*found.values()] for part, found in rows.items()} | drawing.now()


def _plain_bar(lane: str, called: str, event: Event, opened_us: int) -> dict[str, Any]:
    return {
        "from": event.at_us - opened_us,
        "id": f"{lane}-{event.version}",
        "lane": lane,
        "name": called,
        "to": None,
        "turn": event.turn,
        "version": event.version,
    }


def _label(bar: dict[str, Any], event: Event, at: int) -> str:
    """Words of the input that ended the bar, if it stands in the bar's lane."""
    if bar["lane"] != event.lane or bar["to"] != at:
        return ""
    return next((str(value) for field in _WORDS if (value := getattr(event, field, ""))), "")
