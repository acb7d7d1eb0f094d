"""The golden log: one formatter from events to the lines of target-flow.md, used live, by tail and by replay."""

from collections.abc import Iterable

from events import derived
from events.envelope import Event

MARKS = {
    "IDLE": "🟢",
    "LISTENING": "🔵",
    "THINKING": "🟡",
    "SPEAKING": "🔴",
    "INTERRUPT": "🟣",
    "ENDED": "⚫",
}


class GoldenLog:
    """Folds committed events into lines. With `mask`, the users' words are replaced by their length."""

    def __init__(self, *, mask: bool = False) -> None:
        self._mask = mask
        self._interrupted: set[str] = set()
        """Sessions whose next turn is the first after an interruption."""

    def line(self, event: Event) -> str | None:
        """The line that an event prints, or None."""
        said = self._say(event)
        return None if said is None else f"[{_one_line(event.session_id)}] {said}"

    def _say(self, event: Event) -> str | None:
        match event:
            case derived.StateChanged():
                return f"{MARKS[event.to_phase]} {event.to_phase}" + (
                    f" ({_one_line(event.reason)})" if event.reason else ""
                )
            case derived.TurnStarted():
                return f"STT FINAL | text={self._words(event.text)}" + self._new_input(event.session_id)
            case derived.ProcessingComplete():
                return f"Processing complete in {(event.elapsed_us + 500) // 1000}ms"
            case derived.AnswerEnded(outcome="finished"):
                return f"TTS stream | chunks={event.chunks}"
            case derived.AnswerEnded(outcome="interrupted"):
                return "[TTS] Playing..."
            case derived.UserInterrupted():
                self._interrupted.add(event.session_id)
                return f"🔴 User interrupted ({event.reason})"
            case derived.SessionEnded():
                self._interrupted.discard(event.session_id)  # a service runs for months
                return None
            case derived.CommandIssued(name="CancelTask"):
                return "Cancelling current task"
            case _:
                return None

    def _new_input(self, session_id: str) -> str:
        if session_id not in self._interrupted:
            return ""
        self._interrupted.discard(session_id)
        return "  (new user input)"

    def _words(self, text: str) -> str:
        return f"<{len(text)} characters>" if self._mask else _one_line(text)


def golden(events: Iterable[Event]) -> list[str]:
    """The golden log of some events."""
    formatter = GoldenLog()
    return [line for event in events if (line := formatter.line(event)) is not None]


_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), " ")


def _one_line(text: str) -> str:
    """One line whatever the text holds: what a user says must never forge a line or drive a terminal."""
    return " ".join(text.translate(_CONTROLS).split())
