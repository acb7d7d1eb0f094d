"""Encodes a recording in each format of `orch export`: as a recording, as a diagram, or as a trace."""

from typing import Literal, cast, get_args

from events.codec import encode
from events.recording import Recording, sealed
from orchestrator.replay.mermaid import mermaid
from orchestrator.replay.redact import Redaction, redacted
from orchestrator.replay.replay import events_of
from projections.span import Layout
from projections.spans import spans_of

Form = Literal["jsonl", "mermaid", "otlp", "otlp-json", "perfetto"]
FORMS: tuple[str, ...] = get_args(Form)


def exported(
    recording: Recording,
    form: Form = "jsonl",
    *,
    redact: Redaction = "none",
    layout: Layout = "session",
    with_content: bool = False,
) -> bytes:
    """Encode a recording in a format of `orch export`; returns the bytes of the file.

    `redact`: how to hide the words, in every format. `layout`: one trace per session or one per turn; has an effect
    only in otlp and otlp-json. `with_content`: add the words of user and agent to the spans; has an effect only in
    otlp, otlp-json and perfetto.

    Raises BadRecordingError if the recording cannot be read, and UnsoundLogError if it is damaged or of a newer orch.

    >>> exported(recording, "mermaid", redact="default")
    """
    if form == "jsonl":
        if redact == "none":
            return sealed(recording.header, recording.lines)
        header = recording.header.model_copy(update={"derived": True, "story": ""})
        return sealed(header, map(encode, redacted(events_of(recording), redact)))
    events = list(redacted(events_of(recording), redact))
    if form == "mermaid":
        return "".join(f"{line}\n" for line in mermaid(events)).encode()
    spans = spans_of(events, layout, with_content=with_content)
    if form == "perfetto":
        from projections.perfetto import perfetto

        return perfetto(events, spans)
    from projections.otlp import otlp, otlp_json  # imported late: only these need OpenTelemetry

    return otlp(spans) if cast("str", form) == "otlp" else otlp_json(spans)
