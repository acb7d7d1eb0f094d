"""Spans of the user's side: speech, endpointing, speech-to-text, barge-in."""

from dataclasses import dataclass, field

from events import inputs
from events.envelope import Event, Input
from projections import names
from projections.span import Link, Span, TraceBuilder

FAR_US = 10_000_000
"""Largest accepted offset of a producer's clock, in microseconds. If the offset is larger, the time in the log is used
instead of the producer's time.
"""


@dataclass(slots=True)
class UtteranceSpans:
    """Spans of an utterance, kept until it is known which turn the utterance opens, if any."""

    began_us: int
    recognition: Span | None
    """Open span of speech-to-text; None after the final."""
    held: list[Span] = field(default_factory=list)
    """Ended spans whose parent is not known yet."""
    quiet: Event | None = None
    """The latest SPEECH_STOPPED."""
    partials: int = 0
    finished_us: int = 0
    is_over: bool = False


class UserSpans:
    """Folds the user's speech, its transcripts and barge-ins into spans."""

    def __init__(self, trace: TraceBuilder) -> None:
        self._trace = trace
        self._speech: Span | None = None
        self._utterance: UtteranceSpans | None = None
        self._barge_in: Span | None = None
        self._onset_us = 0

    def hear(self, event: Event, playing: Span | None) -> None:
        """Fold speech or a transcript. `playing`: the span of the agent's playback; None: nothing plays. Speech during
        a playback opens a barge-in span.
        """
        match event:
            case inputs.SpeechStarted():
                self._end_speech()
                self._listen(event).quiet = None
                self._speak_anew(playing)
                self._speech = self._trace.open(names.USER_SPEECH, event)
                self.speak_over(event, playing)
            case inputs.SpeechStopped():
                self._end_speech()
                if self._utterance is not None:
                    self._utterance.quiet = event
            case inputs.SttPartial(via="speech"):
                self._listen(event).partials += 1
            case inputs.SttFinal(via="speech"):
                utterance = self._listen(event)
                self._understood(utterance, "final")
                utterance.is_over = True

    def finish_utterance(self, at_us: int) -> None:
        """Record the endpoint, and add the endpointing span. `at_us`: when the reducer finished the utterance."""
        utterance = self._utterance
        if utterance is not None:
            utterance.finished_us = at_us
            if utterance.quiet is not None:
                self.hold(self._trace.open(names.ENDPOINTING, utterance.quiet))

    def give_up(self) -> None:
        """End the span of speech-to-text, because no final came before the deadline."""
        if self._utterance is not None:
            self._understood(self._utterance, "no_final")
            self._utterance.is_over = True

    def hold(self, span: Span) -> None:
        """Set the end time of the span to now. Close the span at once if a turn is open, or if no utterance is open.
        Otherwise keep the span until the utterance opens a turn or is over. If the utterance opens a turn, this turn
        becomes the parent.
        """
        span.end_us = self._trace.at_us
        if self._utterance is None or self._trace.turn is not None:
            self._trace.close(span)
        else:
            self._utterance.held.append(span)

    def begin_turn(self, turn: Span) -> None:
        """Move the start of a turn to the start of the utterance that opened it, and close the utterance's spans."""
        if self._utterance is not None:
            turn.start_us = min(turn.start_us, self._utterance.began_us)
            self._let_go(self._utterance)

    def speak_over(self, event: Event, playing: Span | None) -> None:
        """Open a barge-in span if the agent is speaking. `playing`: the span of its playback; None: nothing plays."""
        if self._speech is None:  # BARGE_IN without speech: a sound that the VAD has not reported
            self._speak_anew(playing)
        if playing is not None and self._barge_in is None:
            self._barge_in = self._trace.open(names.BARGE_IN, event)
            self._barge_in.links.append(Link(playing.context, names.INTERRUPTED))
            observed_us = event.observed_at_us if isinstance(event, Input) else 0
            is_believed = 0 <= event.at_us - observed_us <= FAR_US
            self._onset_us = observed_us if is_believed else event.at_us

    def _speak_anew(self, playing: Span | None) -> None:
        """Close the barge-in span of an earlier sound as undecided, because a new sound begins. Exception: if the
        earlier sound has paused the playback `playing`, both sounds are one barge-in, and the span stays open.
        """
        span = self._barge_in
        if span is None:
            return
        is_over_it = playing is not None and span.links[0].to == playing.context
        if not is_over_it or names.STOP_LATENCY_MS not in span.attributes:
            self.decide("undecided")

    def silence(self) -> None:
        """Record in the barge-in span how long the agent spoke after the user began to speak. Call this when the
        playback is paused or stopped.
        """
        if self._barge_in is not None:
            latency_ms = (self._trace.at_us - self._onset_us) // 1000
            self._barge_in.attributes.setdefault(names.STOP_LATENCY_MS, latency_ms)

    def decide(self, kind: str) -> None:
        """Close the barge-in span with its kind: interruption, false_interruption or undecided."""
        span, self._barge_in = self._barge_in, None
        if span is not None:
            span.attributes[names.BARGE_IN_KIND] = kind
            self._trace.close(span)

    def open_spans(self) -> list[Span]:
        recognition = self._utterance.recognition if self._utterance is not None else None
        return [span for span in (self._speech, self._barge_in, recognition) if span is not None]

    def end(self) -> None:
        """Close all spans, because the session is over."""
        self._end_speech()
        if self._utterance is not None:
            self._let_go(self._utterance)
        self.decide("undecided")

    def _listen(self, event: Event) -> UtteranceSpans:
        """Return the open utterance, or a new one if new speech follows an utterance that has ended."""
        if self._utterance is not None and self._utterance.is_over and isinstance(event, inputs.SpeechStarted):
            self._let_go(self._utterance)
        if self._utterance is None:
            recognition = self._trace.open(names.SPEECH_TO_TEXT, event, is_call=True)
            self._utterance = UtteranceSpans(event.at_us, recognition)
        return self._utterance

    def _end_speech(self) -> None:
        span, self._speech = self._speech, None
        if span is not None:
            self.hold(span)

    def _understood(self, utterance: UtteranceSpans, outcome: str) -> None:
        span, utterance.recognition = utterance.recognition, None
        if span is not None:
            span.attributes |= {names.PARTIALS: utterance.partials, names.OUTCOME: outcome}
            if utterance.finished_us:
                span.attributes[names.FINALIZE_MS] = (self._trace.at_us - utterance.finished_us) // 1000
            self.hold(span)

    def _let_go(self, utterance: UtteranceSpans) -> None:
        """Close the spans that were kept for an utterance. Their parent is the open turn or, if no turn is open, the
        session.
        """
        self._understood(utterance, "no_final")
        self._utterance = None
        for span in utterance.held:
            self._trace.close(span)
