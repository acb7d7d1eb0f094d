"""Response latency of a turn, by stage: from the end of the user's words to the first audio of the answer."""

from dataclasses import dataclass, field

from events import derived, inputs
from events.envelope import Event

STAGES = ("endpointing", "transcription", "thinking", "floor", "synthesis", "playout")
"""In order. endpointing: from silence to the endpoint. transcription: until the turn starts. thinking: until intent and
answer are joined. floor: the answer waits for a speaking user. synthesis: until the first audio chunk. playout: until
the first frame is sent.
"""


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of one turn, in microseconds. The stages add up to the total: each begins where the last one ended."""

    total_us: int
    stages_us: dict[str, int]


@dataclass(slots=True)
class TurnTimes:
    """Times of a turn whose answer has not started playing yet."""

    began_us: int
    stages_us: dict[str, int] = field(default_factory=dict)
    playback_id: str = ""
    """Playback of the answer, once issued."""

    @property
    def reached_us(self) -> int:
        """When the last stage recorded so far has ended."""
        return self.began_us + sum(self.stages_us.values())

    def until(self, stage: str, at_us: int) -> None:
        """Record that a stage ended at this time, unless it is recorded already. A stage that ended before the last
        recorded one gets length 0.
        """
        if stage not in self.stages_us:
            self.stages_us[stage] = max(0, at_us - self.reached_us)


class TurnTiming:
    """Folds the events of one session into the response latency of its turns. A turn whose start it has not seen has
    none. The fields are public: the history stores them and continues from them.
    """

    def __init__(self, quiet_us: int = 0, finished_us: int = 0, turn: TurnTimes | None = None) -> None:
        self.quiet_us = quiet_us
        """When the user stopped speaking; 0 while speaking, or if silent since the last turn."""
        self.finished_us = finished_us
        """When the reducer took the user's silence for the end of the utterance (the endpoint); 0 before that."""
        self.turn = turn

    def see(self, event: Event) -> Latency | None:
        """Fold one event. Returns the latency of the turn if its answer starts playing with this event, else None."""
        match event:
            case inputs.SpeechStarted():
                self.quiet_us = self.finished_us = 0
            case inputs.SpeechStopped():
                self.quiet_us = event.at_us
            case derived.CommandIssued():
                self._issued(event)
            case derived.TurnStarted():
                self._begin(event)
            case derived.TurnEnded():
                self.turn = None
            case derived.EventRejected():
                if self.finished_us:  # an utterance without words: start over
                    self.quiet_us = self.finished_us = 0
            case _:
                return self._answered(event)
        return None

    def _issued(self, event: derived.CommandIssued) -> None:
        if event.name == "FinishUtterance":
            self.finished_us = event.at_us
        elif event.name == "Speak" and self.turn is not None and not self.turn.playback_id:
            self.turn.playback_id = event.target
            if event.at_us > self.turn.reached_us:
                self.turn.until("floor", event.at_us)

    def _begin(self, event: derived.TurnStarted) -> None:
        if event.via == "speech" and self.quiet_us:
            self.turn = turn = TurnTimes(self.quiet_us)
            turn.until("endpointing", self.finished_us or event.at_us)
            turn.until("transcription", event.at_us)
        else:
            self.turn = TurnTimes(event.at_us)
        self.quiet_us = self.finished_us = 0

    def _answered(self, event: Event) -> Latency | None:
        turn = self.turn
        if turn is None:
            return None
        if isinstance(event, derived.ProcessingComplete):
            turn.until("thinking", event.at_us)
        elif isinstance(event, inputs.TtsChunkReady | inputs.PlaybackStarted) and event.playback_id == turn.playback_id:
            turn.until("synthesis", event.at_us)
            if isinstance(event, inputs.PlaybackStarted):
                turn.until("playout", event.at_us)
                self.turn = None
                return Latency(turn.reached_us - turn.began_us, turn.stages_us)
        return None
