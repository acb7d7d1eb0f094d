"""Holds the documentation of the language to its promise: every event answers five questions and names a real test."""

import re
from pathlib import Path

import pytest

from events.codec import DERIVED, INPUTS
from events.envelope import Event

TESTS = Path(__file__).resolve().parents[1]
WRITTEN = {name for file in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))}
EVENTS = [*INPUTS.values(), *DERIVED.values()]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
@pytest.mark.parametrize("label", ["Says:", "Changes:", "Prints:", "Late or twice:", "Test:"])
def test_every_event_answers_the_five_questions(event: type[Event], label: str) -> None:
    """Who says it, what it changes, what it prints, what it means late or twice, which test shows it."""
    assert label in " ".join((event.__doc__ or "").split())


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_the_test_that_an_event_names_exists(event: type[Event]) -> None:
    """A docstring that points nowhere is worse than none."""
    (named,) = re.findall(r"Test: (test_\w+)\.", " ".join((event.__doc__ or "").split()))
    assert named in WRITTEN


def test_every_event_has_a_name_of_its_own() -> None:
    """The union is discriminated by `type`, so no two classes may share one."""
    assert len({event.model_fields["type"].default for event in EVENTS}) == len(EVENTS)
