"""`orch why` names the inputs that a decision needs, and no others."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from cli.why import lines
from events.envelope import Derived, Event, Input
from events.recording import parse
from orchestrator.replay.change import Change
from orchestrator.replay.replay import events_of
from orchestrator.replay.what_if import what_if
from orchestrator.replay.why import Why, why
from orchestrator.replay.words import name, payload

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
FILES = sorted(FIXTURES.rglob("*.jsonl"))
IDS_AND_TIMES = {"command_id", "conversation_to", "due_at_us", "elapsed_us", "playback_id", "position_ms"} | {
    "retry_of",
    "saved_us",
}


def log_of(file: Path) -> list[Event]:
    """The log of the first session of a recording."""
    events = events_of(parse(file.read_bytes(), file.name))
    return [event for event in events if event.session_id == events[0].session_id]


def named(found: Why) -> list[int]:
    """The versions of the inputs that a decision needs, by `orch why`."""
    return sorted(
        [*(cause.event.version for cause in found.chain if cause.is_needed), *(event.version for event in found.also)]
    )


NEEDED = [
    ("barge_in.jsonl", 20, [5, 16, 19]),
    ("real_barge_in.jsonl", 78, [59, 68, 77]),
    ("failures/answer_while_it_is_written.jsonl", 72, [32, 68]),
    ("failures/recogniser_hangs.jsonl", 25, [15, 18, 21, 22]),
]


@pytest.mark.parametrize(("file", "version", "needed"), NEEDED)
def test_only_true_causes_of_timers_playback_and_announcements_are_named(
    file: str, version: int, needed: list[int]
) -> None:
    """Without an earlier input, commands and announcements have other numbers: that alone makes no other decision."""
    assert named(why(log_of(FIXTURES / file), version)) == needed


def told(event: Event) -> tuple[Any, ...]:
    """An event as a reader sees it, the time of a timer from now."""
    said = {field: content for field, content in payload(event).items() if field not in IDS_AND_TIMES}
    return name(event), said, payload(event).get("due_at_us", event.at_us) - event.at_us


def decided(event: Event, events: list[Event]) -> tuple[Any, ...]:
    """A decision with the input that it is about."""
    return told(event), told(next(one for one in events if isinstance(one, Input) and one.event_id == event.cause))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_without_an_input_that_is_named_nothing_equal_is_decided(file: Path) -> None:
    """At a place of each recording; equal means the same words about the same words, within 60 ms."""
    log = log_of(file)
    event = Random(file.name).choice([event for event in log if isinstance(event, Derived) and event.version > 4])
    for version in named(why(log, event.version)):
        cause = next(one for one in log if one.version == version)
        new = what_if(log, Change(without=frozenset({cause.event_id}))).events
        near = [one for one in new if isinstance(one, Derived) and abs(one.at_us - event.at_us) <= 60_000]
        assert decided(event, log) not in [decided(one, new) for one in near], (event.version, version)


def test_of_an_event_that_todays_reducer_does_not_decide_nothing_is_proved() -> None:
    """The recording has another deadline in its policy than the one by which it was made."""
    data = (FIXTURES / "normal_flow.jsonl").read_bytes().replace(b'"intent_ms":1000', b'"intent_ms":1500')
    log = [*parse(data, "other.jsonl").events()]
    found = why(log, 30)
    assert (found.is_decided, found.also, found.beside, found.conditions) == (False, (), None, ())
    assert {cause.is_needed for cause in found.chain} == {None}
    assert lines(found, 0)[2:] == [
        "today's reducer does not decide this event; `orch replay` names the first difference",
    ]
    assert why(log, 28).is_decided
