"""Response latency of a turn, by stage: from the end of the user's words to the first audio of the answer."""

from dataclasses import dataclass, field

from events import derived, inputs
from events.envelope import Event

STAGES = ("endpointing", "transcription", "thinking", "floor", "synthesis", "playout")
"""Latency stages, in order; each stage begins when the stage before it ends. endpointing: from the user's silence to
the endpoint. transcription: until the turn starts. thinking: until intent and answer are both there. floor: until the
agent may speak, if the user is speaking (at most `floor_ms`); missing if the user is silent. synthesis: until the first
audio chunk. playout: until the first frame is sent.
"""


@dataclass(frozen=True, slots=True)
class Latency:
    """Response latency of one turn, in microseconds. `stages_us`: latency stage → its length. The lengths add up to
    `total_us`, because each stage begins when the stage before it ends.
    """

    total_us: int
    stages_us: dict[str, int]


@dataclass(slots=True)
class TurnTimes:
    """Times of a turn whose answer has not started playing yet. `began_us`: when the first latency stage began.
    `stages_us`: latency stage → its length, for the stages that have ended.
    """

    began_us: int
    stages_us: dict[str, int] = field(default_factory=dict)
    playback_id: str = ""
    """Id of the playback of the answer; empty until the Speak command is issued."""

    @property
    def reached_us(self) -> int:
        """Time in microseconds at which the last recorded stage ended; if no stage is recorded, `began_us`."""
        return self.began_us + sum(self.stages_us.values())

    def until(self, stage: str, at_us: int) -> None:
        """Record that a latency stage ended at `at_us`. The stage began when the last recorded stage ended. If `at_us`
        is earlier than this beginning, the stage gets length 0. If the stage is recorded already, do nothing.
        """
        if stage not in self.stages_us:
            self.stages_us[stage] = max(0, at_us - self.reached_us)


class TurnTiming:
    """Folds the events of one session into the response latency of its turns. A turn whose start was not folded has no
    latency. The fields are public: the history stores them and continues from them.
    """

    def __init__(self, quiet_us: int = 0, finished_us: int = 0, turn: TurnTimes | None = None) -> None:
        self.quiet_us = quiet_us
        """When the user stopped speaking; 0: the user is speaking, or has said nothing since the last turn."""
        self.finished_us = finished_us
        """When the reducer finished the utterance (the endpoint); 0: it has not finished the utterance."""
        self.turn = turn
        self._wordless = ""
        """Id of the latest input that is an empty final or was rejected. Needed only within its step."""

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
            case inputs.SttFinal():
                self._wordless = "" if event.text.strip() else event.event_id
            case derived.EventRejected():
                self._wordless = event.cause
            case _:
                return self._answered(event)
        return None

    def _issued(self, event: derived.CommandIssued) -> None:
        if event.name == "FinishUtterance":
            self.finished_us = event.at_us
        elif event.name == "CancelTimer" and event.target == "stt_deadline" and event.cause == self._wordless:
            self.quiet_us = self.finished_us = 0  # the utterance waited for this final, and has no words
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
