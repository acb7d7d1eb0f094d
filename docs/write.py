"""Writes the pages that are drawn from the code; a test compares. Run: `uv run python -m docs.write`"""

from itertools import groupby
from pathlib import Path

from orchestrator.session.fsm import edges

HERE = Path(__file__).parent


def mermaid() -> str:
    """The state diagram; edges between the same phases share one arrow."""
    lines = ["stateDiagram-v2", "    [*] --> NEW"]
    for (before, after), same in groupby(sorted((a, c, b) for a, b, c in edges()), key=lambda edge: edge[:2]):
        labels = "<br>".join(label for *_, label in same)
        lines.append(f"    {before} --> {after} : {labels}")
    return "\n".join([*lines, "    ENDED --> [*]"])


def pages() -> dict[str, str]:
    """File name → text."""
    return {
        "state-machine.md": "# The state machine\n\n"
        "Drawn from the table in orchestrator/session/fsm.py, which has a cell for each phase and event: a decision,\n"
        "an ignore, or a rejection with its reason. What is not drawn changes no phase.\n\n"
        f"```mermaid\n{mermaid()}\n```\n",
    }


def main() -> None:
    for name, text in pages().items():
        (HERE / name).write_text(text)


if __name__ == "__main__":
    main()
