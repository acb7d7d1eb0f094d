"""A conversation as lanes side by side, time running down: who did what, and over what the user spoke."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from events import derived, inputs
from events.envelope import Event
from orchestrator.replay.words import value

LANES = ("USER", "STT", "THINK", "TTS", "PLAYBACK")
WIDTH = 22
BARGE_IN = "⚡"


def timeline(events: Iterable[Event], *, full: bool = False) -> Iterator[str]:
    """One line for each event that happens in a lane; `full`: texts are not cut."""
    yield f"{'time':>10}  {'phase':9}  " + "  ".join(f"{lane:{WIDTH}}" for lane in LANES).rstrip()
    opened: dict[str, int] = {}
    phases: dict[str, str] = {}
    for event in events:
        opened_us = opened.setdefault(event.session_id, event.at_us)
        if isinstance(event, derived.StateChanged):
            phases[event.session_id] = event.to_phase
        if (found := _in_a_lane(event)) is not None:
            lane, words = found
            text = words if full or len(words) <= WIDTH * 2 else f"{words[: WIDTH * 2]}…(+{len(words) - WIDTH * 2})"
            cells = [""] * LANES.index(lane) + [text]
            phase = phases.get(event.session_id, "NEW")
            row = f"{(event.at_us - opened_us) / 1e6:10.3f}  {phase:9}  "
            yield row + "  ".join(f"{cell:{WIDTH}}" for cell in cells).rstrip()


def _in_a_lane(event: Any) -> tuple[str, str] | None:
    found = _LANE.get(type(event))
    return None if found is None else (found[0], found[1](event))


def _ended(event: derived.AnswerEnded) -> str:
    mark = f" {BARGE_IN}" if event.outcome == "interrupted" else ""
    return f"{event.playback_id} {event.outcome} at {event.heard_ms} ms ┘{mark}"


_LANE: dict[type[Event], tuple[str, Callable[[Any], str]]] = {
    inputs.SpeechStarted: ("USER", lambda _: "speaks ┐"),
    inputs.SpeechStopped: ("USER", lambda _: "silent ┘"),
    derived.UserInterrupted: ("USER", lambda event: f"{BARGE_IN} interrupts ({event.reason})"),
    inputs.SttPartial: ("STT", lambda event: f"… {value(event.text, 0)}"),
    inputs.SttFinal: ("STT", lambda event: f"final {value(event.text, 0)}"),
    inputs.IntentResolved: ("THINK", lambda event: f"intent {event.intent}"),
    inputs.RagAnswered: ("THINK", lambda event: f"answer {value(event.answer, 0)}"),
    inputs.ServiceFailed: ("THINK", lambda event: f"failed: {event.error}"),
    inputs.TtsComplete: ("TTS", lambda event: f"{event.chunks} chunks, {event.duration_ms} ms"),
    inputs.PlaybackStarted: ("PLAYBACK", lambda event: f"{event.playback_id} ┐"),
    derived.AnswerEnded: ("PLAYBACK", _ended),
}
