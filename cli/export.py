"""`orch export`: a session's log as a recording that needs no service to be replayed, as a diagram, or as a trace."""

import sys
from pathlib import Path
from typing import cast, get_args

from cli.sources import whole
from cli.terminal import UsageError, naming, no_effect, say
from orchestrator.replay.redact import Redaction
from projections.exports import FORMS, Form, exported
from projections.span import Layout


def run(source: str, output: str, *, form: str, redact: str, layout: str, content: bool) -> int:
    for option, value, known in (
        ("--format", form, FORMS),
        ("--redact", redact, get_args(Redaction)),
        ("--layout", layout or "session", get_args(Layout)),
    ):
        if value not in known:
            raise UsageError(f"{option} is one of {', '.join(known)}")
    if layout and form not in ("otlp", "otlp-json"):
        raise no_effect("--layout", f"--format {form}")
    if content and form in ("jsonl", "mermaid"):
        raise no_effect("--content", f"--format {form}")
    data = exported(
        whole(source),
        cast("Form", form),
        redact=cast("Redaction", redact),
        layout=cast("Layout", layout or "session"),
        with_content=content,
    )
    if output == "-":
        if sys.stdout.isatty() and form != "otlp":
            sys.stdout.write(data.decode())  # somebody looks at it
        else:
            sys.stdout.buffer.write(data)
    else:
        with naming(output):
            Path(output).write_bytes(data)
        say(f"wrote {output}" + (f"; replay it with: orch replay {output}" if form == "jsonl" else ""))
    return 0
