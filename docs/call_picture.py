"""Draws docs/call.svg: a recorded call from its Perfetto export, in lanes with slices and arrows, like Perfetto."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from events.recording import parse
from projections import names
from projections.perfetto import PHASES, perfetto
from projections.spans import spans_of

CALL = Path(__file__).parents[1] / "fixtures" / "real_barge_in.jsonl"
LEFT, WIDTH, ROW, TOP = 130, 1_000, 22, 44
"""Pixels: width of the lane names and of the picture, height of a lane and of the space above the first."""
COLOURS = {
    "phase": "#90a4ae",
    "user": "#66bb6a",
    "service": "#ffa726",
    "voice": "#42a5f5",
    "whole": "#b39ddb",
    "barge_in": "#ef5350",
}
KINDS = {
    **dict.fromkeys(("user_speech", "endpointing", "speech_to_text"), "user"),
    **dict.fromkeys(("intent", "answer"), "service"),
    **dict.fromkeys(("text_to_speech", "playback", "filler"), "voice"),
    "barge_in": "barge_in",
}


@dataclass(slots=True)
class Slice:
    """A bar; times are microseconds since the first event."""

    lane: str
    """Lane index: one per kind of slice, and one more where two of a kind overlap."""
    name: str
    start_us: int
    end_us: int
    kind: str


@dataclass(slots=True)
class Trace:
    """The slices and arrows to draw."""

    slices: list[Slice] = field(default_factory=list)
    causes: list[tuple[tuple[str, int], tuple[str, int]]] = field(default_factory=list)
    """From (kind of slice, time) to (kind of slice, time)."""


def read(exported: bytes) -> Trace:
    """The slices and arrows of a Perfetto export of one session."""
    trace, began, arrows, lane = Trace(), dict[str, dict[str, Any]](), dict[str, tuple[str, int]](), ""
    for event in json.loads(exported)["traceEvents"]:
        match event["ph"]:
            case "X" if event["tid"] == PHASES:
                start_us = event["ts"]
                trace.slices.append(Slice("phases", event["name"], start_us, start_us + event["dur"], "phase"))
            case "X":
                lane = event["name"].partition(" ")[0]  # length 0: an end of the next arrow
            case "b":
                began[event["id"]] = event
            case "e":
                first = began.pop(event["id"])
                kind, _, rest = event["name"].partition(" ")
                name = f"turn {first['args'][names.TURN_INDEX]}" if rest else kind
                own = kind if _is_free(trace, kind, first["ts"]) else f"{kind} (2)"
                trace.slices.append(Slice(own, name, first["ts"], event["ts"], KINDS.get(kind, "whole")))
            case "s":
                arrows[event["id"]] = lane, event["ts"]
            case "f":
                trace.causes.append((arrows.pop(event["id"]), (lane, event["ts"])))
    return trace


def _is_free(trace: Trace, lane: str, from_us: int) -> bool:
    return all(one.end_us <= from_us for one in trace.slices if one.lane == lane)


def _lane(trace: Trace, kind: str, us: int) -> str:
    """Lane of the latest slice of a kind that had begun by this time."""
    return max((one.start_us, one.lane) for one in trace.slices if one.lane.startswith(kind) and one.start_us <= us)[1]


def draw(trace: Trace) -> str:
    """The SVG, with a lane for each kind of slice, in order of start."""
    lanes = list(dict.fromkeys(one.lane for one in trace.slices))
    kinds = list(dict.fromkeys(lane.partition(" ")[0] for lane in lanes))
    lanes.sort(key=lambda lane: kinds.index(lane.partition(" ")[0]))
    rows = {lane: number for number, lane in enumerate(lanes)}
    end_us, height = max(one.end_us for one in trace.slices), TOP + ROW * len(rows) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        "<style>text{font:11px sans-serif;fill:#222}.t{font-size:10px;fill:#666}.h{font-size:13px}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]

    def x(us: int) -> float:
        return round(LEFT + (WIDTH - LEFT - 14) * us / end_us, 1)

    parts += _axis(end_us, height, x)
    for lane, row in rows.items():
        parts.append(f'<text x="8" y="{TOP + ROW * row + 15}">{escape(lane)}</text>')
    for one in trace.slices:
        parts.append(_bar(one, x(one.start_us), x(one.end_us), TOP + ROW * rows[one.lane]))
    for ends in trace.causes:
        (us, start), (to_us, end) = [(us, TOP + ROW * (rows[_lane(trace, kind, us)] + 0.5)) for kind, us in ends]
        parts.append(f'<path d="M{x(us)} {start}L{x(to_us)} {end}" stroke="#000" stroke-opacity=".5"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axis(end_us: int, height: int, x: Any) -> Iterator[str]:
    yield '<text class="h" x="8" y="16">A call with an interruption</text>'
    for second in range(end_us // 1_000_000 + 1):
        at = x(second * 1_000_000)
        yield f'<path d="M{at} 34V{height - 4}" stroke="#ddd"/><text class="t" x="{at}" y="30">{second} s</text>'


def _bar(one: Slice, left: float, right: float, top: int) -> str:
    """A bar with its name if there is room, and its duration as tooltip."""
    width = max(1.5, round(right - left, 1))
    label, took_ms = escape(one.name), (one.end_us - one.start_us) / 1e3
    name = f'<text x="{left + 3}" y="{top + 15}">{label}</text>' if width > 6.5 * len(one.name) else ""
    return (
        f'<g><title>{label}: {took_ms:.1f} ms</title><rect x="{left}" y="{top + 2}" width="{width}" height="{ROW - 4}"'
        f' rx="2" fill="{COLOURS[one.kind]}" stroke="#fff" stroke-width=".5"/>{name}</g>'
    )


def picture() -> str:
    """The picture of docs/observability.md."""
    events = list(parse(CALL.read_bytes(), CALL.name).events())
    return draw(read(perfetto(events, spans_of(events))))
