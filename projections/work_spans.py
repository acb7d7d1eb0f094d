"""The spans of what the agent does, questions to services, synthesis, playback, and which of them are errors."""

from events import inputs
from events.derived import CommandIssued
from events.envelope import Event, Result
from projections import names
from projections.span import Book, Context, Link, Span, Value

STAGES = {
    "ClassifyIntent": names.INTENT,
    "AnswerQuestion": names.ANSWER,
    "PlayFiller": names.FILLER,
    "Speak": names.TEXT_TO_SPEECH,
}
_DEADLINES = {  # whose fault it is that one passes, if that is still at work
    "intent_deadline": names.INTENT,
    "answer_deadline": names.ANSWER,
    "tts_deadline": names.TEXT_TO_SPEECH,
}
_ANSWERED_BY: dict[type[Event], frozenset[str]] = {
    inputs.IntentResolved: frozenset({names.INTENT}),
    inputs.RagAnswered: frozenset({names.ANSWER}),
    inputs.TtsComplete: frozenset({names.FILLER, names.TEXT_TO_SPEECH}),
    inputs.ServiceFailed: frozenset(STAGES.values()),
}


class WorkSpans:
    """Folds commands and their results."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._stages: dict[str, Span] = {}
        """By command id."""
        self._playbacks: dict[str, Span | None] = {}
        """By playback id; None: asked for, not begun."""
        self._fillers: set[str] = set()
        self._overdue = ""
        """Whose deadline is the input that things are decided about now."""
        self._asked: dict[str, Context] = {}
        """By the event that issued it: what a result was asked by."""

    @property
    def playing(self) -> Span | None:
        """What is heard of the agent."""
        return next((span for span in self._playbacks.values() if span is not None), None)

    def consider(self, event: Event, *, is_in_a_call: bool) -> None:
        """An input: what is cancelled because of its deadline has failed. Without a call nothing is synthesised: there
        it is the client that does not show the answer.
        """
        overdue = _DEADLINES.get(event.target, "") if isinstance(event, inputs.TimerFired) else ""
        self._overdue = overdue if is_in_a_call or overdue != names.TEXT_TO_SPEECH else ""

    def ask(self, event: CommandIssued, because: Event | None) -> None:
        """A stage begins, because of that input."""
        span = self._book.open(STAGES[event.name], event, is_call=True)
        span.attributes[names.COMMAND_ID] = event.command_id
        if number := event.payload.get("speculation"):
            span.attributes[names.SPECULATION] = int(str(number))
        if (first := self._stages.get(event.retry_of)) is not None:
            span.links.append(Link(first.context, names.RETRY_OF))
            self.end_stage(event.retry_of, "retried")
        elif because is not None and because.cause in self._asked:
            span.links.append(Link(self._asked[because.cause], names.CAUSED_BY))
        self._stages[event.command_id] = span
        self._asked[event.event_id] = span.context
        if event.name in ("Speak", "PlayFiller"):
            span.attributes[names.PLAYBACK_ID] = event.target
            self._playbacks.setdefault(event.target, None)
        if event.name == "PlayFiller":
            self._fillers.add(event.target)

    def adopt(self) -> None:
        """What was asked before the turn is of the turn."""
        for span in self._stages.values():
            self._book.rehome(span)

    def answered(self, event: Result) -> Span | None:
        """A result; the span that it ends, if it does. One of a stage that is over changes nothing."""
        span = self._stages.get(event.command_id)
        if isinstance(event, inputs.PlaybackStarted | inputs.PlaybackDone):
            self._play(event)
        elif isinstance(event, inputs.TtsChunkReady) and span is not None:
            span.attributes.setdefault(names.FIRST_CHUNK_MS, (event.at_us - span.start_us) // 1000)
        elif span is not None and span.name in _ANSWERED_BY.get(type(event), ()):
            span.attributes |= _said(event)
            if isinstance(event, inputs.ServiceFailed):
                span.error = span.attributes[names.ERROR_TYPE] = "service_failed"
            return self._over(event.command_id, "failed" if span.error else "answered")
        return None

    def end_stage(self, command_id: str, outcome: str) -> None:
        span = self._over(command_id, outcome)
        if span is not None:
            self._book.close(span)

    def withdraw(self, command_id: str) -> Span | None:
        """The span of a question that is not asked any more."""
        return self._over(command_id, "cancelled")

    def cancel(self) -> None:
        """The current task."""
        for command_id in list(self._stages):
            self.end_stage(command_id, "cancelled")

    def stop(self, playback_id: str) -> None:
        """Nothing more of this playback."""
        for command_id, span in list(self._stages.items()):
            if span.attributes.get(names.PLAYBACK_ID) == playback_id:
                self.end_stage(command_id, "cancelled")
        played = self._playbacks.pop(playback_id, None)
        if played is not None:
            self._book.close(played)

    def end_answer(self, playback_id: str, facts: dict[str, Value]) -> Context | None:
        """An answer is over; what it is known by, if it was heard at all."""
        played = self._playbacks.get(playback_id)
        if played is not None:
            played.attributes |= facts
        self.stop(playback_id)
        return played.context if played is not None else None

    def end(self) -> None:
        """The turn or the session is over."""
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
            return  # of an answer that is over
        span = self._playbacks[playback_id]
        if isinstance(event, inputs.PlaybackStarted):
            if span is None:
                span = self._playbacks[playback_id] = self._book.open(names.PLAYBACK, event)
                span.attributes[names.PLAYBACK_ID] = playback_id
                if event.cause in self._asked:
                    span.links.append(Link(self._asked[event.cause], names.CAUSED_BY))
        else:
            if span is not None:
                span.attributes |= {names.CONFIRMED_BY: event.confirmed_by, names.PLAYED_MS: event.position_ms}
            if playback_id in self._fillers:  # of an answer, ANSWER_ENDED says the end
                self.stop(playback_id)


def _said(event: Event) -> dict[str, Value]:
    """What a result tells beyond its words."""
    match event:
        case inputs.IntentResolved():
            return {names.INTENT_NAME: event.intent, names.INTENT_CONFIDENCE: event.confidence_permille}
        case inputs.RagAnswered():
            return {names.SOURCES: len(event.sources)}
        case inputs.TtsComplete():
            return {names.AUDIO_MS: event.duration_ms, names.CHUNKS: event.chunks}
        case _:
            return {}
