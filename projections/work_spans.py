"""Spans of the agent's side: requests to services, synthesis, playback, and their errors."""

import re

from events import inputs
from events.derived import CommandIssued
from events.envelope import Event, Result
from orchestrator.session.commands import ANSWERS, COMMANDS, OF_THE_TURN, PLAYS
from projections import names
from projections.span import Context, Link, Span, TraceBuilder, Value

_OTHER_NAMES = {"speech": names.TEXT_TO_SPEECH}
STAGES = {name: _OTHER_NAMES.get(COMMANDS[name].stage, COMMANDS[name].stage) for name in sorted(OF_THE_TURN)}
"""Command of the current task → name of its span: the name in the gen_ai conventions, otherwise that of its stage."""
_DEADLINES = {  # timer → the span that has timed out, if it is still open
    "intent_deadline": names.INTENT,
    "answer_deadline": names.ANSWER,
    "tts_deadline": names.TEXT_TO_SPEECH,
}


_NAME = re.compile(r"[\w.:/-]{1,64}")
"""Names of intents that traces show. Another name may hold the user's words, which traces must not contain."""
MOST_COUNT = 2**53
"""Largest number taken from a payload. A payload may hold any JSON number, but OTLP integers have 64 bits."""


class WorkSpans:
    """Folds commands and their results into spans."""

    def __init__(self, trace: TraceBuilder) -> None:
        self._trace = trace
        self._stages: dict[str, Span] = {}
        """Open spans by command id."""
        self._playbacks: dict[str, Span | None] = {}
        """Playback id → the span of the playback; None until the playback starts."""
        self._fillers: set[str] = set()
        self._overdue = ""
        """Name of the span whose deadline is the current input; otherwise empty."""
        self._asked: dict[str, Context] = {}
        """Id of the COMMAND_ISSUED event → context of its span, for links from results."""

    @property
    def playing(self) -> Span | None:
        """Span of the running playback, if any."""
        return next((span for span in self._playbacks.values() if span is not None), None)

    def consider(self, event: Event, *, is_in_a_call: bool) -> None:
        """Note whether an input is the deadline of a stage. If it is, the span of that stage ends as timed out.

        Without a call, `tts_deadline` does not count: nothing is synthesised, and the client did not show the answer.
        """
        overdue = _DEADLINES.get(event.target, "") if isinstance(event, inputs.TimerFired) else ""
        self._overdue = overdue if is_in_a_call or overdue != names.TEXT_TO_SPEECH else ""

    def ask(self, event: CommandIssued, because: Event | None) -> None:
        """Open the span of a command that starts a stage; `because` is the input that led to the command."""
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
        """The open span of a request, by the id of its command."""
        return self._stages.get(command_id)

    def adopt(self) -> None:
        """Make the span of the new turn the parent of open requests that were issued before the turn began."""
        for span in self._stages.values():
            self._trace.rehome(span)

    def answered(self, event: Result) -> Span | None:
        """Fold a result. Returns the span of the stage that it ends, for the caller to close; None: it ends no stage.

        A late result changes nothing.
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
        """Whether the span's stage expects this result. Logs of other reducer versions may hold unexpected ones."""
        return span.name in {STAGES.get(name) for name in ANSWERS[type(event)]}

    def end_stage(self, command_id: str, outcome: str) -> None:
        span = self._over(command_id, outcome)
        if span is not None:
            self._trace.close(span)

    def withdraw(self, command_id: str) -> Span | None:
        """Take the span of a withdrawn command from the open ones, for the caller to close; None: none is open."""
        return self._over(command_id, "cancelled")

    def cancel(self) -> None:
        """End the spans of the current task as cancelled."""
        for command_id in list(self._stages):
            self.end_stage(command_id, "cancelled")

    def stop(self, playback_id: str) -> None:
        """End the spans of a playback."""
        for command_id, span in list(self._stages.items()):
            if span.attributes.get(names.PLAYBACK_ID) == playback_id:
                self.end_stage(command_id, "cancelled")
        played = self._playbacks.pop(playback_id, None)
        if played is not None:
            self._trace.close(played)

    def end_answer(self, playback_id: str, facts: dict[str, Value]) -> Context | None:
        """End the spans of an answer; `facts` become attributes of its playback's span. Returns the context (ids) of
        that span; None: the answer never played.
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
                names.INTENT_NAME: event.intent if _NAME.fullmatch(event.intent) else names.UNNAMED,
                names.INTENT_CONFIDENCE: event.confidence_permille,
            }
        case inputs.RagAnswered():
            return {names.SOURCES: len(event.sources)}
        case inputs.TtsComplete():
            return {names.AUDIO_MS: event.duration_ms, names.CHUNKS: event.chunks}
        case _:
            return {}
