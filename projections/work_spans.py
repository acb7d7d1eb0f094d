"""Spans of the agent's side: requests to services, synthesis, playback, and their errors."""

from events import inputs
from events.derived import CommandIssued
from events.envelope import Event, Result
from orchestrator.safe_text import is_name
from orchestrator.session.commands import ANSWERS, COMMANDS, OF_THE_TURN, PLAYS
from projections import names
from projections.span import Context, Link, Span, TraceBuilder, Value

_OTHER_NAMES = {"speech": names.TEXT_TO_SPEECH}
STAGES = {name: _OTHER_NAMES.get(COMMANDS[name].stage, COMMANDS[name].stage) for name in sorted(OF_THE_TURN)}
"""Name of a command → name of its span, for all commands whose requests end with the turn. The name of the span is the
stage of the command. Exception: "text_to_speech" for speech, as in the gen_ai conventions of OpenTelemetry.
"""
_DEADLINES = {  # timer → the span that has timed out, if it is still open
    "intent_deadline": names.INTENT,
    "answer_deadline": names.ANSWER,
    "tts_deadline": names.TEXT_TO_SPEECH,
}


MOST_COUNT = 2**53
"""Largest number that a span takes from a payload. A larger number may not fit an OTLP integer, and is left out."""


class WorkSpans:
    """Folds commands and their results into spans."""

    def __init__(self, trace: TraceBuilder) -> None:
        self._trace = trace
        self._stages: dict[str, Span] = {}
        """Command id → the open span of the command."""
        self._playbacks: dict[str, Span | None] = {}
        """Playback id → the span of the playback; None until the playback starts."""
        self._fillers: set[str] = set()
        self._overdue = ""
        """If the input of this step is the deadline of a stage: name of the stage's span. Otherwise empty."""
        self._asked: dict[str, Context] = {}
        """Id of the COMMAND_ISSUED event → context of its span, for links from results."""

    @property
    def playing(self) -> Span | None:
        """Span of the running playback; None: nothing plays."""
        return next((span for span in self._playbacks.values() if span is not None), None)

    def consider(self, event: Event, *, is_in_a_call: bool) -> None:
        """Note whether the input is the deadline of a stage. If a later event of the step cancels this stage, its span
        then ends as timed out, not as cancelled.

        `is_in_a_call`: a handler is attached. Without a handler, `tts_deadline` is no deadline of the speech stage: the
        client shows the answer as text.
        """
        overdue = _DEADLINES.get(event.target, "") if isinstance(event, inputs.TimerFired) else ""
        self._overdue = overdue if is_in_a_call or overdue != names.TEXT_TO_SPEECH else ""

    def ask(self, event: CommandIssued, because: Event | None) -> None:
        """Open the span of a command that starts a stage. `because`: the input that led to the command; None: the input
        has not been folded.

        If the command is a retry, the new span links to the span of the earlier attempt, and the earlier span ends.
        Otherwise, if the input is the result of another command, the new span links to the span of that command.
        """
        span = self._trace.open(STAGES[event.name], event, is_call=True)
        span.attributes[names.COMMAND_ID] = event.command_id
        number = event.payload.get("speculation")
        if isinstance(number, int) and 0 < number <= MOST_COUNT:
            span.attributes[names.SPECULATION] = int(number)
        if (first := self._stages.get(event.retry_of)) is not None:
            span.links.append(Link(first.context, names.RETRY_OF))
            self.end_stage(event.retry_of, "retried")
        elif because is not None and because.cause in self._asked:
            span.links.append(Link(self._asked[because.cause], names.CAUSED_BY))
        self._stages[event.command_id] = span
        self._asked[event.event_id] = span.context
        if event.name in PLAYS:
            span.attributes[names.PLAYBACK_ID] = event.target
            self._playbacks.setdefault(event.target, None)
        if event.name == "PlayFiller":
            self._fillers.add(event.target)

    def asked(self, command_id: str) -> Span | None:
        """Return the open span of a request by the id of its command; None: no such span is open."""
        return self._stages.get(command_id)

    def adopt(self) -> None:
        """Set the parent of each open span again, because a turn begins: the turn or, for a span that began before it,
        the session.
        """
        for span in self._stages.values():
            self._trace.rehome(span)

    def answered(self, event: Result) -> Span | None:
        """Fold a result. If the result ends a stage, return the span of the stage: the calling code must close it.
        Otherwise return None. A result whose span has ended already changes nothing.
        """
        span = self._stages.get(event.command_id)
        if isinstance(event, inputs.PlaybackStarted | inputs.PlaybackDone):
            self._play(event)
        elif isinstance(event, inputs.TtsChunkReady) and span is not None:
            span.attributes.setdefault(names.FIRST_CHUNK_MS, (event.at_us - span.start_us) // 1000)
        elif span is not None and event.ends_stage and self._answers(event, span):
            span.attributes |= _said(event)
            if isinstance(event, inputs.ServiceFailed):
                span.error = span.attributes[names.ERROR_TYPE] = "service_failed"
            return self._over(event.command_id, "failed" if span.error else "answered")
        return None

    @staticmethod
    def _answers(event: Result, span: Span) -> bool:
        """Whether this result answers the span's command. In a log of another reducer version, a result may not."""
        return span.name in {STAGES.get(name) for name in ANSWERS[type(event)]}

    def end_stage(self, command_id: str, outcome: str) -> None:
        span = self._over(command_id, outcome)
        if span is not None:
            self._trace.close(span)

    def withdraw(self, command_id: str) -> Span | None:
        """Set the outcome of a cancelled command's span: timed out if the current input is the command's deadline,
        otherwise cancelled. Returns the span; the calling code must close it. None: the command has no open span.
        """
        return self._over(command_id, "cancelled")

    def cancel(self) -> None:
        """End the open spans of all requests as cancelled."""
        for command_id in list(self._stages):
            self.end_stage(command_id, "cancelled")

    def stop(self, playback_id: str) -> None:
        """End the spans of a playback: the span of its synthesis, if still open, and the span of the playback."""
        for command_id, span in list(self._stages.items()):
            if span.attributes.get(names.PLAYBACK_ID) == playback_id:
                self.end_stage(command_id, "cancelled")
        played = self._playbacks.pop(playback_id, None)
        if played is not None:
            self._trace.close(played)

    def end_answer(self, playback_id: str, facts: dict[str, Value]) -> Context | None:
        """End the spans of an answer. `facts` become attributes of the span of its playback. Returns the context (ids)
        of this span; None: the answer never played.
        """
        played = self._playbacks.get(playback_id)
        if played is not None:
            played.attributes |= facts
        self.stop(playback_id)
        return played.context if played is not None else None

    def end(self) -> None:
        """End all spans, because the turn or the session is over."""
        self.cancel()
        for playback_id in list(self._playbacks):
            self.stop(playback_id)
        self._fillers.clear()
        self._asked.clear()

    def open_spans(self) -> list[Span]:
        return [*self._stages.values(), *(span for span in self._playbacks.values() if span is not None)]

    def _over(self, command_id: str, outcome: str) -> Span | None:
        span = self._stages.pop(command_id, None)
        if span is not None:
            if outcome == "cancelled" and span.name == self._overdue:
                outcome = "timed_out"
                span.error = span.attributes[names.ERROR_TYPE] = "timeout"
            span.attributes[names.OUTCOME] = outcome
        return span

    def _play(self, event: inputs.PlaybackStarted | inputs.PlaybackDone) -> None:
        playback_id = event.playback_id
        if playback_id not in self._playbacks:
            return  # a late event of an answer that is over
        span = self._playbacks[playback_id]
        if isinstance(event, inputs.PlaybackStarted):
            if span is None:
                span = self._playbacks[playback_id] = self._trace.open(names.PLAYBACK, event)
                span.attributes[names.PLAYBACK_ID] = playback_id
                if event.cause in self._asked:
                    span.links.append(Link(self._asked[event.cause], names.CAUSED_BY))
            request = self._stages.get(event.command_id)
            if request is not None and names.FIRST_CHUNK_MS not in request.attributes:
                self.end_stage(event.command_id, names.SHOWN)  # speech has a chunk before its playback starts
        else:
            if span is not None:
                span.attributes |= {names.CONFIRMED_BY: event.confirmed_by, names.PLAYED_MS: event.position_ms}
            if playback_id in self._fillers:  # answers end with ANSWER_ENDED
                self.stop(playback_id)


def _said(event: Event) -> dict[str, Value]:
    """Return the attributes that a result adds to the span of its stage."""
    match event:
        case inputs.IntentResolved():
            return {
                names.INTENT_NAME: event.intent if is_name(event.intent) else names.UNNAMED,
                names.INTENT_CONFIDENCE: event.confidence_permille,
            }
        case inputs.RagAnswered():
            return {names.SOURCES: len(event.sources)}
        case inputs.TtsComplete():
            return {names.AUDIO_MS: event.duration_ms, names.CHUNKS: event.chunks}
        case _:
            return {}
