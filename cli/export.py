"""`orch export`: a session's log as a recording that needs no service to be replayed, or as a diagram."""

import sys
from pathlib import Path
from typing import cast, get_args

from cli.show import events_of
from cli.sources import whole
from cli.terminal import say
from events.codec import encode
from events.recording import Recording, sealed
from orchestrator.replay.mermaid import mermaid
from orchestrator.replay.redact import Redaction, redacted
from orchestrator.replay.verdict import USAGE

FORMATS = ("jsonl", "mermaid")


def run(source: str, output: str, *, form: str, redact: str) -> int:
    if form not in FORMATS or redact not in get_args(Redaction):
        say(f"✗ --format is one of {', '.join(FORMATS)}, --redact one of {', '.join(get_args(Redaction))}")
        return USAGE
    data = _exported(whole(source), form, cast("Redaction", redact))
    if output == "-":
        sys.stdout.buffer.write(data)
    else:
        Path(output).write_bytes(data)
        say(f"wrote {output}" + (f"; replay it with: orch replay {output}" if form == "jsonl" else ""))
    return 0


def _exported(recording: Recording, form: str, redact: Redaction) -> bytes:
    if form == "mermaid":
        lines = mermaid(redacted(events_of(recording), redact))
        return "".join(f"{line}\n" for line in lines).encode()
    if redact == "none":
        return sealed(recording.header, recording.lines)
    header = recording.header.model_copy(update={"derived": True})
    return sealed(header, map(encode, redacted(events_of(recording), redact)))
