"""Shows that no list of event or command names stands twice in the product: facts about them are on their classes."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from events.codec import DERIVED, INPUTS
from orchestrator.session.commands import ANSWERS, COMMANDS, OUTSTANDING, PLAYS, STAGES
from tests.cli.service import ROOT

EVENTS = INPUTS | DERIVED
NAMES = {*EVENTS, *(kind.__name__ for kind in EVENTS.values()), *COMMANDS}
PRODUCT = ("events", "orchestrator", "projections", "cli")
SECOND_READINGS = ROOT / "orchestrator" / "simulation"
"""The checkers of the simulation repeat on purpose what they check."""


def named(node: ast.AST) -> str:
    """The event or command that an expression names; empty: none."""
    name = getattr(node, "value", None) if isinstance(node, ast.Constant) else getattr(node, "attr", None)
    name = node.id if isinstance(node, ast.Name) else name
    return name if isinstance(name, str) and name in NAMES else ""


def lists(file: Path) -> Iterator[tuple[frozenset[str], str]]:
    """Tuples, lists, sets and dict keys of two or more such names, and where they stand."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
        names = frozenset(name for item in items if item is not None and (name := named(item)))
        if len(names) > 1:
            yield names, f"{file.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]


def test_no_list_of_event_or_command_names_stands_twice() -> None:
    """Two would be changed in one place and forgotten in the other."""
    places = defaultdict(list)
    for package in PRODUCT:
        for file in (ROOT / package).rglob("*.py"):
            if SECOND_READINGS not in file.parents:
                for names, place in lists(file):
                    places[names].append(place)
    assert places, "the product has such lists"
    assert {names: where for names, where in places.items() if len(where) > 1} == {}


def test_what_results_answer_are_commands() -> None:
    """A name that is no command would never be answered."""
    assert COMMANDS.keys() >= OUTSTANDING
    assert {kind.model_fields["type"].default for kind in ANSWERS} < INPUTS.keys()
    assert PLAYS < STAGES < OUTSTANDING


def test_every_outstanding_command_has_a_last_result() -> None:
    """One without would stay outstanding for ever."""
    ended = {name for kind, names in ANSWERS.items() if kind.is_last for name in names}
    assert ended == OUTSTANDING


def test_what_repeats_its_commands_target_has_the_field() -> None:
    """`about` names a field of the event."""
    assert all(kind.about in kind.model_fields for kind in ANSWERS if kind.about)
