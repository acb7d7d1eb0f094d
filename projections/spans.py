"""Computes a session's spans from its committed events. The fold is pure: times and ids come from the events alone.

A span is returned once, when it closes, and never changes afterwards. So the live export gives the same spans as a
later export from the log.
"""

import json
from collections.abc import Iterable

from events import derived, inputs, journal
from events.envelope import Event, Input, Result
from projections import names
from projections.agent_spans import AgentSpans
from projections.span import Context, Layout, Link, Span, SpanEvent, TraceBuilder, Value
from projections.timing import TurnTiming
from projections.user_spans import UserSpans
from projections.work_spans import STAGES, WorkSpans


def spans_of(events: Iterable[Event], layout: Layout = "session", *, with_content: bool = False) -> list[Span]:
    """Compute all spans of the events of one or more sessions. Spans still open at the end are marked as incomplete.

    `layout`: one trace per session, or one per turn. `with_content`: add the words of user and agent to the turns.
    """
    sessions: dict[str, SessionSpans] = {}
    found: list[Span] = []
    for event in events:
        if event.session_id not in sessions:
            sessions[event.session_id] = SessionSpans(event, layout, with_content=with_content)
        found += sessions[event.session_id].see(event)
    for session in sessions.values():
        found += session.finish()
    return found


class SessionSpans:
    """Folds the events of one session into spans. `with_content` adds the conversation's text to the spans of turns."""

    def __init__(self, first: Event, layout: Layout = "session", *, with_content: bool = False) -> None:
        self.is_over = False
        self.version = 0
        """Version of the last event folded."""
        self._with_content = with_content
        self._trace = TraceBuilder(first, layout)
        self._user = UserSpans(self._trace)
        self._work = WorkSpans(self._trace)
        self._agent = AgentSpans(self._trace)
        self._timing = TurnTiming()
        self._call: Span | None = None
        self._last_turn: Context | None = None
        self._interrupted: Context | None = None
        self._input: Event | None = None

    def see(self, event: Event) -> list[Span]:
        """Fold one event and return the spans that it closes."""
        if self.is_over:
            return []
        self._trace.at_us, self.version = event.at_us, event.version
        if isinstance(event, Input):
            self._input = event
            self._work.consider(event, is_in_a_call=self._call is not None)
        self._time(event)
        self._take(event)
        return self._trace.take()

    def open_spans(self) -> list[Span]:
        """Return the spans that have not ended, in any order."""
        trace = self._trace
        ours = [span for span in (self._call, trace.turn, trace.root) if span is not None]
        parts = (self._user, self._work, self._agent)
        return [] if self.is_over else [*(span for part in parts for span in part.open_spans()), *ours]

    def finish(self) -> list[Span]:
        """Close and return the spans still open, marked as incomplete: the log ends, but the session has not ended."""
        if self.is_over:
            return []
        for span in self.open_spans():
            span.attributes[names.INCOMPLETE] = True
        self._end_session()
        return self._trace.take()

    def _take(self, event: Event) -> None:
        match event:
            case inputs.SpeechStarted() | inputs.SpeechStopped() | inputs.SttPartial() | inputs.SttFinal():
                self._user.hear(event, self._work.playing)
            case inputs.BargeIn():
                self._user.speak_over(event, self._work.playing)
            case inputs.SessionOpened():
                self._trace.root.attributes.setdefault(names.REDUCER_VERSION, event.reducer_version)
            case inputs.HandlerAttached() | inputs.HandlerDetached():
                self._connect(event)
            case inputs.TimerFired(target="stt_deadline") if event.cause:  # else stale: the timer was withdrawn
                self._user.give_up()
            case Result():
                self._answered(event)
            case derived.CommandIssued():
                self._command(event)
            case _:
                self._decided(event)

    def _decided(self, event: Event) -> None:
        match event:
            case derived.TurnStarted():
                self._begin_turn(event)
            case derived.TurnEnded():
                self._end_turn(event.outcome)
            case derived.ProcessingComplete():
                self._processed(event)
            case derived.UserInterrupted(via="text"):  # an earlier sound has not interrupted: the typed words have
                self._user.decide("undecided")
            case derived.UserInterrupted():
                self._user.silence()
                self._user.decide("interruption")
            case derived.AnswerEnded():
                self._end_answer(event)
            case derived.StateChanged() | derived.EventRejected():
                self._note(event)
            case derived.SessionEnded():
                self._trace.root.attributes[names.SESSION_END_REASON] = event.reason
                self._end_session()

    def _let_go(self, span: Span) -> None:
        """Close the span of a finished request. If the request belongs to a speculation, its span is kept until the
        turn is known (`UserSpans.hold`).
        """
        if names.SPECULATION in span.attributes:
            self._user.hold(span)
        else:
            self._trace.close(span)

    def _command(self, event: derived.CommandIssued) -> None:
        match event.name:
            case "FinishUtterance":
                self._user.finish_utterance(event.at_us)
            case "CancelStage":
                self._withdraw(str(event.payload.get("command_id")))
            case "CancelTask":
                self._work.cancel()
            case "PausePlayback":
                self._user.silence()
            case "ResumePlayback":
                self._user.decide("false_interruption")
            case "StopPlayback":
                self._user.silence()
                self._work.stop(event.target)
            case "RunTool":
                because = self._input
                self._agent.call(event, self._work.asked(because.command_id) if isinstance(because, Result) else None)
            case name if name in STAGES:
                self._work.ask(event, self._input)

    def _withdraw(self, command_id: str) -> None:
        self._agent.withdraw(command_id)
        if (span := self._work.withdraw(command_id)) is not None:
            self._let_go(span)

    def _answered(self, event: Result) -> None:
        match event:
            case journal.ToolReturned():
                self._agent.returned(event)
            case journal.ModelResponded():
                span = self._agent.responded(event, self._work.asked(event.command_id))
                if event.cause:
                    self._let_go(span)
                else:  # the response is stale: its question is over
                    self._trace.close_outside(span)
            case _:
                if (ended := self._work.answered(event)) is not None:
                    self._let_go(ended)

    def _connect(self, event: inputs.HandlerAttached | inputs.HandlerDetached) -> None:
        """Open the span of a call when a handler is attached. Close it when this handler is detached, or when another
        handler is attached: a session has one call at a time.
        """
        call = self._call
        is_new = isinstance(event, inputs.HandlerAttached)
        if call is not None and (is_new or call.attributes[names.HANDLER_ID] == event.handler_id):
            self._close_call()
        if is_new:
            self._call = self._trace.open(names.CALL, event)
            self._call.attributes[names.HANDLER_ID] = event.handler_id

    def _close_call(self) -> None:
        """Close the span of the media connection. The parent of this span is the session, even if a turn is open."""
        call, self._call = self._call, None
        if call is not None:
            self._trace.close_outside(call)

    def _begin_turn(self, event: derived.TurnStarted) -> None:
        turn = self._trace.open_turn(event)
        turn.attributes |= {names.AGENT: names.SCOPE, names.TURN_INDEX: event.turn, names.TURN_VIA: event.via}
        if self._with_content:
            turn.attributes[names.INPUT_MESSAGES] = _message("user", event.text)
        for context, kind in ((self._last_turn, names.FOLLOWS), (self._interrupted, names.INTERRUPTED)):
            if context is not None:
                turn.links.append(Link(context, kind))
        self._interrupted = None
        if event.via == "speech":
            self._user.begin_turn(turn)
        self._work.adopt()

    def _processed(self, event: derived.ProcessingComplete) -> None:
        if (turn := self._trace.turn) is not None:
            if event.fallback:
                turn.attributes[names.FALLBACK] = event.fallback
            if self._with_content:
                turn.attributes[names.OUTPUT_MESSAGES] = _message("assistant", event.answer)

    def _end_turn(self, outcome: str) -> None:
        turn = self._trace.turn
        if turn is None:
            return
        self._work.end()
        turn.attributes |= {names.TURN_OUTCOME: outcome, names.TURN_END_REASON: outcome}
        if outcome == "failed":
            turn.error = turn.attributes[names.ERROR_TYPE] = "turn_failed"
        self._last_turn = turn.context
        self._trace.close(turn)

    def _end_answer(self, event: derived.AnswerEnded) -> None:
        facts: dict[str, Value] = {
            names.OUTCOME: event.outcome,
            names.PLAYED_MS: event.heard_ms,
            names.CHUNKS: event.chunks,
        }
        played = self._work.end_answer(event.playback_id, facts)
        if event.outcome == "interrupted":
            self._interrupted = played
        else:
            self._user.decide("undecided")

    def _note(self, event: derived.StateChanged | derived.EventRejected) -> None:
        attributes: dict[str, Value] = {names.EVENT_VERSION: event.version}
        if event.reason:
            attributes[names.REASON] = event.reason
        name = names.REJECTED
        if isinstance(event, derived.StateChanged):
            name = names.TRANSITION
            attributes |= {names.FROM_PHASE: event.from_phase, names.TO_PHASE: event.to_phase}
        (self._trace.turn or self._trace.root).happened(SpanEvent(name, event.at_us, attributes))

    def _time(self, event: Event) -> None:
        latency, turn = self._timing.see(event), self._trace.turn
        if latency is not None and turn is not None:
            turn.attributes |= {
                names.RESPONSE_LATENCY_MS: latency.total_us // 1000,
                names.RESPONSE_LATENCY_US: latency.total_us,
            }
            for stage, us in latency.stages_us.items():
                turn.attributes[names.STAGE_US.format(stage)] = us

    def _end_session(self) -> None:
        self.is_over = True
        self._user.end()
        self._end_turn("session_closed")
        self._work.end()
        self._agent.end()
        self._close_call()
        self._trace.root.attributes[names.LAST_VERSION] = self.version
        self._trace.close(self._trace.root)


def _message(role: str, text: str) -> str:
    """Encode a message as JSON, in the format of OpenTelemetry's gen_ai conventions."""
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}], ensure_ascii=False)
