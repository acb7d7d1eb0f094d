"""The instructions for a language model that answers in place of the demo agent: its manners, and all that it knows."""

from pathlib import Path

from orchestrator.reference.content import load_content

MANNERS = (
    "You answer callers on the telephone, for the place that the notes below are about. Speak in one to three short "
    "sentences, without lists, markup or emoji. Use the notes alone; if they do not say it, say that you do not know."
)


def instructions(content_dir: Path | None) -> str:
    """The instructions, with the knowledge of the content folder. Reads files. Raises ServiceError."""
    sections = load_content(content_dir).sections
    notes = "\n\n".join(f"{section.heading}\n{section.spoken} {section.rest}".strip() for section in sections)
    return f"{MANNERS}\n\n{notes}"
