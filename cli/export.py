"""`orch export`: a session's log as a recording that needs no service to be replayed, as a diagram, or as a trace."""

import sys
from pathlib import Path
from typing import cast, get_args

from cli.show import events_of
from cli.sources import whole
from cli.terminal import UsageError, say
from events.codec import encode
from events.envelope import Event
from events.recording import Recording, sealed
from orchestrator.replay.mermaid import mermaid
from orchestrator.replay.redact import Redaction, redacted
from projections.span import Layout, Span
from projections.spans import spans_of

TRACES = ("otlp", "otlp-json", "perfetto")
FORMATS = ("jsonl", "mermaid", *TRACES)


def run(source: str, output: str, *, form: str, redact: str, layout: str, content: bool) -> int:
    for option, value, known in (
        ("--format", form, FORMATS),
        ("--redact", redact, get_args(Redaction)),
        ("--layout", layout, get_args(Layout)),
    ):
        if value not in known:
            raise UsageError(f"{option} is one of {', '.join(known)}")
    recording, redaction = whole(source), cast("Redaction", redact)
    if form in TRACES:
        events = list(redacted(events_of(recording), redaction))
        data = _traced(events, spans_of(events, cast("Layout", layout), with_content=content), form)
    else:
        data = _exported(recording, form, redaction)
    if output == "-":
        sys.stdout.buffer.write(data)
    else:
        Path(output).write_bytes(data)
        say(f"wrote {output}" + (f"; replay it with: orch replay {output}" if form == "jsonl" else ""))
    return 0


def _traced(events: list[Event], spans: list[Span], form: str) -> bytes:
    """Only these need OpenTelemetry, so it is imported here."""
    if form == "perfetto":
        from projections.perfetto import perfetto

        return perfetto(events, spans)
    from projections.otlp import otlp, otlp_json

    return otlp(spans) if form == "otlp" else otlp_json(spans)


def _exported(recording: Recording, form: str, redact: Redaction) -> bytes:
    if form == "mermaid":
        lines = mermaid(redacted(events_of(recording), redact))
        return "".join(f"{line}\n" for line in lines).encode()
    if redact == "none":
        return sealed(recording.header, recording.lines)
    header = recording.header.model_copy(update={"derived": True})
    return sealed(header, map(encode, redacted(events_of(recording), redact)))
