"""The spans of what the user does: speaking, being understood, speaking over the agent."""

from dataclasses import dataclass, field

from events import inputs
from events.envelope import Event, Input
from projections import names
from projections.span import Book, Link, Span

FAR_US = 10_000_000
"""A producer's clock that is further off is not believed."""


@dataclass(slots=True)
class Utterance:
    """What the user is saying, as long as it is not known which turn it opens, if any."""

    began_us: int
    recognition: Span | None
    """Speech-to-text, until its last word."""
    held: list[Span] = field(default_factory=list)
    """Closed, but it is not known of what they are."""
    quiet: Event | None = None
    """The latest end of speech."""
    partials: int = 0
    finished_us: int = 0
    is_over: bool = False


class UserSpans:
    """Folds what is heard of the user."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._speech: Span | None = None
        self._utterance: Utterance | None = None
        self._barge_in: Span | None = None
        self._onset_us = 0

    def hear(self, event: Event, playing: Span | None) -> None:
        """Voice or words; `playing` is what the agent says meanwhile."""
        match event:
            case inputs.SpeechStarted():
                self._end_speech()
                self._listen(event).quiet = None
                self._speech = self._book.open(names.USER_SPEECH, event)
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
        """The reducer takes the silence for the end."""
        utterance = self._utterance
        if utterance is not None:
            utterance.finished_us = at_us
            if utterance.quiet is not None:
                self.hold(self._book.open(names.ENDPOINTING, utterance.quiet))

    def give_up(self) -> None:
        """No final came: what was understood so far is all there will be."""
        if self._utterance is not None:
            self._utterance.is_over = True

    def hold(self, span: Span) -> None:
        """It ends now; what it is part of is known with the turn."""
        span.end_us = self._book.at_us
        if self._utterance is None or self._book.turn is not None:
            self._book.close(span)
        else:
            self._utterance.held.append(span)

    def begin_turn(self, turn: Span) -> None:
        """What was said has opened a turn: that began when the user began to speak."""
        if self._utterance is not None:
            turn.start_us = min(turn.start_us, self._utterance.began_us)
            self._let_go(self._utterance)

    def speak_over(self, event: Event, playing: Span | None) -> None:
        """The user makes a sound while the agent speaks."""
        if playing is not None and self._barge_in is None:
            self._barge_in = self._book.open(names.BARGE_IN, event)
            self._barge_in.links.append(Link(playing.context, names.INTERRUPTED))
            observed_us = event.observed_at_us if isinstance(event, Input) else 0
            is_believed = 0 <= event.at_us - observed_us <= FAR_US
            self._onset_us = observed_us if is_believed else event.at_us

    def silence(self) -> None:
        """The agent is told to be silent, for now or for good."""
        if self._barge_in is not None:
            latency_ms = (self._book.at_us - self._onset_us) // 1000
            self._barge_in.attributes.setdefault(names.STOP_LATENCY_MS, latency_ms)

    def decide(self, kind: str) -> None:
        """Whether it was an interruption."""
        span, self._barge_in = self._barge_in, None
        if span is not None:
            span.attributes[names.BARGE_IN_KIND] = kind
            self._book.close(span)

    def open_spans(self) -> list[Span]:
        return [span for span in (self._speech, self._barge_in) if span is not None]

    def end(self) -> None:
        """The session is over."""
        self._end_speech()
        if self._utterance is not None:
            self._let_go(self._utterance)
        self.decide("undecided")

    def _listen(self, event: Event) -> Utterance:
        """The utterance that an event belongs to; one whose words led to nothing is over with the next."""
        if self._utterance is not None and self._utterance.is_over and isinstance(event, inputs.SpeechStarted):
            self._let_go(self._utterance)
        if self._utterance is None:
            recognition = self._book.open(names.SPEECH_TO_TEXT, event, is_call=True)
            self._utterance = Utterance(event.at_us, recognition)
        return self._utterance

    def _end_speech(self) -> None:
        span, self._speech = self._speech, None
        if span is not None:
            self.hold(span)

    def _understood(self, utterance: Utterance, outcome: str) -> None:
        span, utterance.recognition = utterance.recognition, None
        if span is not None:
            span.attributes |= {names.PARTIALS: utterance.partials, names.OUTCOME: outcome}
            if utterance.finished_us:
                span.attributes[names.FINALIZE_MS] = (self._book.at_us - utterance.finished_us) // 1000
            self.hold(span)

    def _let_go(self, utterance: Utterance) -> None:
        """What was held belongs to what goes on now, the turn or the session."""
        self._understood(utterance, "no_final")
        self._utterance = None
        for span in utterance.held:
            self._book.close(span)
