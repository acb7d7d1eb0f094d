"""Writes docs/state-machine.md: the diagram, and a table per phase with the decisions' docstrings."""

from collections.abc import Iterator
from itertools import groupby

from events.codec import INPUTS
from orchestrator.session.fsm import LIVE, TABLE, TIMERS, Cell, edges

HEAD = """# The state machine

Generated from the table in orchestrator/session/fsm.py, which has a cell for each phase and event: a decision, an
ignore, or a rejection with its reason. The diagram shows only cells that can change the phase.
"""
CELLS = """## What happens to each event in each phase

TIMER_FIRED runs the decision of its timer. A result whose command is not outstanding is stale, and rejected before this
table. An event that a phase does not list is recorded and rejected. NEW accepts only SESSION_OPENED, ENDED nothing.
"""


def page() -> str:
    """The whole page."""
    rows = {phase: [*_rows(phase)] for phase in LIVE}
    anywhere = [row for row in rows["IDLE"] if all(row in there for there in rows.values())]
    sections = [("In each of the five phases", anywhere)]
    sections += [(phase, [row for row in there if row not in anywhere]) for phase, there in rows.items()]
    return f"{HEAD}\n```mermaid\n{mermaid()}\n```\n\n{CELLS}{''.join(_section(*section) for section in sections)}"


def mermaid() -> str:
    """The Mermaid state diagram; edges between the same phases share one arrow."""
    lines = ["stateDiagram-v2", "    [*] --> NEW"]
    for (before, after), same in groupby(sorted((a, c, b) for a, b, c in edges()), key=lambda edge: edge[:2]):
        labels = "<br>".join(label for *_, label in same)
        lines.append(f"    {before} --> {after} : {labels}")
    return "\n".join([*lines, "    ENDED --> [*]"])


def _section(title: str, rows: list[str]) -> str:
    return f"\n### {title}\n\n| event | what happens |\n|---|---|\n{''.join(rows)}"


def _rows(phase: str) -> Iterator[str]:
    cells = [(name, TABLE[phase, name]) for name in INPUTS if name != "TIMER_FIRED"]  # type: ignore[index]
    cells += [(f"timer {name}", cell) for (where, name), cell in TIMERS.items() if where == phase]
    for name, cell in cells:
        if words := _words(name, cell):
            yield f"| {name} | {words} |\n"


def _words(name: str, cell: Cell) -> str:
    """First paragraph of the decision's docstring, without the leading event name; empty for an unexpected event."""
    if isinstance(cell, str):
        return "" if cell.startswith(name) else f"rejected: {cell}"
    if cell is None:
        return "noted"
    summary = (cell.__doc__ or "").partition("\n\n")[0]
    return " ".join(summary.split()).partition(": ")[2]
