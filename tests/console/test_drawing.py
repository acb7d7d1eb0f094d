"""The fold behind a page: its states are evolve's, its increments add up, and new events appear by themselves."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_jsonable_python

from events.derived import TurnStarted
from events.envelope import Event
from events.recording import parse, steps
from orchestrator.console.changes import changes
from orchestrator.console.drawing import REPLACED, ROWS, Drawing, drawn, facts, lane_of
from orchestrator.replay.replay import events_of
from orchestrator.replay.timeline import LANES
from orchestrator.replay.words import state_fields
from orchestrator.session.commands import COMMANDS
from orchestrator.session.evolve import fold
from orchestrator.session.state import State
from projections.work_spans import STAGES
from tests.console.conftest import FIXTURES

FILES = sorted(FIXTURES.rglob("*.jsonl"))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=2), inner, max_size=4),
    max_leaves=12,
)


def applied(root: Any, operations: list[list[Any]]) -> Any:
    """As data.js applies them."""
    holder = {"root": copy.deepcopy(root)}
    for kind, path, *rest in operations:
        at: Any = holder
        *before, key = ["root", *path]
        for step in before:
            at = at[step]
        if kind == "set":
            at[key] = rest[0]
        elif kind == "del":
            del at[key]
        else:
            start, deleted, items = rest
            at[key] = at[key][:start] + items + at[key][start + deleted :]
    return holder["root"]


@given(values, values)
def test_changes_lead_from_one_value_to_the_other(old: Any, new: Any) -> None:
    assert applied(old, changes(old, new)) == new


def test_a_window_that_moves_is_two_short_changes() -> None:
    old = {"ids": [f"id-{number}" for number in range(256)]}
    new = {"ids": [*old["ids"][1:], "id-256"]}
    assert changes(old, new) == [["splice", ["ids"], 0, 1, []], ["splice", ["ids"], 255, 0, ["id-256"]]]


def logs(file: Path) -> list[list[Event]]:
    events = events_of(parse(file.read_bytes(), file.name))
    return [[one for one in events if one.session_id == name] for name in dict.fromkeys(e.session_id for e in events)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_page_has_the_state_of_each_step(file: Path) -> None:
    """The changes of all steps, applied blindly, give evolve's state; each increment is a part of the page."""
    for log in logs(file):
        page, state, folded = drawn(log), None, State()
        ends = {step["version"]: step for step in page["steps"]}
        for step in steps(log):
            folded = fold(step, folded)
            found = ends[step[-1].version]
            state = applied(page["blank"] if state is None else state, found["changes"])
            assert "problem" not in found
            assert state == to_jsonable_python(state_fields(folded))
            assert found.get("whole", state) == state
        assert [one["version"] for one in page["events"]] == [event.version for event in log]
        assert {bar["lane"] for bar in page["bars"]} <= {*ROWS}
        ended = [one for one in page["bars"] if one["to"] < one["from"]]
        assert ended == []


def test_increments_add_up_to_the_page() -> None:
    """Whatever the version from which a viewer follows."""
    (log,) = logs(FIXTURES / "real_barge_in.jsonl")
    whole, drawing, page = drawn(log), Drawing(log[0]), {"opened_us": log[0].at_us, "session_id": log[0].session_id}
    for step in steps(log):
        more = drawing.add(step) | drawing.now()
        for part in ("bars", "events", "steps"):
            page.setdefault(part, []).extend(more.pop(part))
        for part, key in REPLACED.items():
            rows = {row[key]: row for row in (*page.get(part, ()), *more.pop(part))}
            page[part] = [*rows.values()]
        page |= more
    assert page == whole
    assert drawing.version == log[-1].version


def test_the_slow_stage_of_a_turn_is_on_its_critical_path() -> None:
    (log,) = logs(FIXTURES / "barge_in.jsonl")
    page = drawn(log)
    bars = {bar["id"]: bar["name"] for bar in page["bars"]}
    stages = {one["name"]: [bars[bar] for bar in one["waits_for"]] for one in page["turns"][0]["stages"]}
    assert stages["thinking"] == ["answer"]  # the intent came earlier
    assert stages["endpointing"] == ["endpointing"]
    assert stages["synthesis"] == ["text_to_speech"]
    assert sum(one["to"] - one["from"] for one in page["turns"][0]["stages"]) == page["turns"][0]["response_us"]


def test_words_that_were_not_heard_are_told_apart() -> None:
    (log,) = logs(FIXTURES / "barge_in.jsonl")
    answer = next(one for one in drawn(log)["said"] if one["outcome"] == "interrupted")
    assert answer["heard_text"] == "We are open every"
    assert answer["unheard"].startswith("day from nine")


def test_every_request_has_a_lane() -> None:
    """Derived from the classes: a command of another stage appears by itself."""
    assert {lane_of(span) for span in STAGES.values()} <= {*LANES}
    assert {lane_of(span): span for span in STAGES.values()}["TTS"] in {"text_to_speech", "filler"}
    assert {name for name, kind in COMMANDS.items() if kind.stage and not kind.outlives_turn} == {*STAGES}
    assert lane_of("execute_tool book") == lane_of("chat local") == "THINK"
    assert facts()["lanes"] == ROWS


def test_a_log_that_is_not_sound_is_drawn_as_far_as_it_goes() -> None:
    """The state says where it stops; the events and bars go on."""
    (log,) = logs(FIXTURES / "barge_in.jsonl")
    broken = [event for event in log if not isinstance(event, TurnStarted)]
    page = drawn(broken)
    assert len(page["events"]) == len(broken)
    assert "does not follow" in page["steps"][-1]["problem"]
