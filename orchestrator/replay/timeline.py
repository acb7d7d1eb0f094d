"""Draws a conversation as lanes side by side, with time running down: `orch show --timeline`."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from events import derived, inputs, journal
from events.envelope import Event
from orchestrator.replay.words import short, value
from orchestrator.safe_text import one_line

LANES = ("USER", "STT", "THINK", "TTS", "PLAYBACK")
WIDTH = 22
NARROWEST = 8
BEFORE_LANES = 23
"""Width of the columns before the lanes (time and phase), in characters."""
BARGE_IN = "⚡"


def timeline(events: Iterable[Event], *, full: bool = False, columns: int = 0) -> Iterator[str]:
    """Yield a header, then a line for each event. The event stands in its lane: one of the columns USER, STT, THINK,
    TTS and PLAYBACK. Events without a lane are left out. `full`: do not cut texts. `columns`: width of the terminal; 0:
    no limit.
    """
    width = min(WIDTH, max(NARROWEST, (columns - BEFORE_LANES) // len(LANES) - 2)) if columns else WIDTH
    yield _fit(f"{'time':>10}  {'phase':9}  " + "  ".join(f"{lane:{width}}" for lane in LANES).rstrip(), columns)
    opened: dict[str, int] = {}
    phases: dict[str, str] = {}
    for event in events:
        opened_us = opened.setdefault(event.session_id, event.at_us)
        if isinstance(event, derived.StateChanged):
            phases[event.session_id] = event.to_phase
        if (found := _in_a_lane(event)) is not None:
            lane, words = found
            is_cut = not full and len(words) > WIDTH * 2
            text = f"{words[: WIDTH * 2]}…(+{len(words) - WIDTH * 2})" if is_cut else words
            cells = [""] * LANES.index(lane) + [text]
            phase = phases.get(event.session_id, "NEW")
            row = f"{(event.at_us - opened_us) / 1e6:10.3f}  {phase:9}  "
            line = row + "  ".join(f"{cell:{width}}" for cell in cells).rstrip()
            yield line if full else _fit(line, columns)


def _fit(line: str, columns: int) -> str:
    return f"{line[: columns - 1]}…" if columns and len(line) > columns else line


def _in_a_lane(event: Any) -> tuple[str, str] | None:
    if not event.lane:
        return None
    words = _WORDS.get(type(event), short)
    return event.lane, one_line(words(event))


def _returned(event: journal.ToolReturned) -> str:
    return f"tool ✗ {event.error}" if event.error else f"tool → {event.result}"


def _ended(event: derived.AnswerEnded) -> str:
    mark = f" {BARGE_IN}" if event.outcome == "interrupted" else ""
    return f"{event.playback_id} {event.outcome} at {event.heard_ms} ms ┘{mark}"


_WORDS: dict[type[Event], Callable[[Any], str]] = {
    inputs.SpeechStarted: lambda _: "speaks ┐",
    inputs.SpeechStopped: lambda _: "silent ┘",
    derived.UserInterrupted: lambda event: f"{BARGE_IN} interrupts ({event.reason})",
    inputs.SttPartial: lambda event: f"… {value(event.text, 0)}",
    inputs.SttFinal: lambda event: f"final {value(event.text, 0)}",
    inputs.IntentResolved: lambda event: f"intent {event.intent}",
    inputs.AnswerText: lambda event: f"… {value(event.text, 0)}",
    inputs.RagAnswered: lambda event: f"answer {value(event.answer, 0)}",
    inputs.ServiceFailed: lambda event: f"failed: {event.error}",
    journal.ToolCalled: lambda event: f"tool {event.name}({event.arguments})",
    journal.ToolReturned: _returned,
    journal.ModelResponded: lambda event: f"model {event.model} {event.input_tokens}→{event.output_tokens} tokens",
    inputs.TtsComplete: lambda event: f"{event.chunks} chunks, {event.duration_ms} ms",
    inputs.PlaybackStarted: lambda event: f"{event.playback_id} ┐",
    derived.AnswerEnded: _ended,
}
"""Type of event → shorter wording. All other events are shown with their type and payload."""
