"""The history of a session is a fold: however its steps are cut into batches, and whatever was forgotten between."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from events import derived, inputs
from events.codec import decode
from events.recording import parse
from projections import names
from projections.history.fold import Changes, GapError, SessionHistory, new_session, steps
from projections.history.store import History, Position, PositionMove, database_url
from projections.spans import spans_of
from projections.timing import STAGES
from tests.projections.history_rows import FIXTURES, KEYS, actual, expected, logs

WORK = ("turn", "name", "arguments", "outcome", "result", "error", "called_us", "returned_us", "took_us")


def test_a_real_call_with_an_interruption() -> None:
    """Two turns with all their stages, what was heard of each answer, and every event."""
    recording = parse((FIXTURES / "real_barge_in.jsonl").read_bytes(), "real_barge_in")
    session_id = recording.event(0).session_id
    rows = expected({session_id: list(recording.lines)})
    (session,) = rows["sessions"]
    assert (session["phase"], session["turns"], session["interruptions"]) == ("ENDED", 2, 1)
    assert session["version"] == len(recording.lines) == len(rows["events"])
    first, second = rows["turns"]
    assert (first["outcome"], second["outcome"]) == ("interrupted", "completed")
    assert first["text"] == "what can you do"
    assert (first["intent"], first["intent_us"], first["answer_us"]) == ("capabilities", 6916, 5074)
    assert first["response_us"] == 1795361073091964 - 1795361072522034
    assert first["response_us"] == sum(first[f"{stage}_us"] or 0 for stage in STAGES)
    assert first["playback_id"] == "answer-1"
    spoken = [row for row in rows["transcript"] if row["speaker"] == "agent"]
    assert [row["outcome"] for row in spoken] == ["interrupted", "finished"]
    assert spoken[0]["text"].startswith(spoken[0]["heard_text"][:20])
    assert len(spoken[0]["heard_text"]) < len(spoken[0]["text"])
    assert spoken[1]["heard_text"] == spoken[1]["text"]


def test_every_turn_and_transition_of_every_recording_is_there() -> None:
    """Counted from the events, without the fold."""
    sessions = logs()
    rows = expected(sessions)
    kinds = Counter(row["type"] for row in rows["events"])
    assert len(rows["events"]) == sum(map(len, sessions.values()))
    assert len(rows["turns"]) == kinds["TURN_STARTED"] > 50
    assert len(rows["transitions"]) == kinds["STATE_CHANGED"]
    assert sum(row["rejected"] for row in rows["sessions"]) == kinds["EVENT_REJECTED"] > 0
    assert sum(row["speaker"] == "user" for row in rows["transcript"]) == kinds["TURN_STARTED"]
    assert sum(row["ended_us"] is not None for row in rows["turns"]) == kinds["TURN_ENDED"]


def test_the_stages_of_a_turn_are_those_of_its_trace() -> None:
    """Of every recording; a dashboard in SQL and one of metrics cannot disagree."""
    timed = 0
    for session_id, lines in logs().items():
        spans = {
            span.attributes[names.TURN_INDEX]: span for span in spans_of(map(decode, lines)) if span.name == names.TURN
        }
        for row in expected({session_id: lines})["turns"]:
            told = spans[row["turn"]].attributes
            assert row["response_us"] == told.get(names.RESPONSE_LATENCY_US)
            if row["response_us"] is not None:
                timed += 1
                assert {stage: row[f"{stage}_us"] for stage in STAGES} == {
                    stage: told.get(names.STAGE_US.format(stage)) for stage in STAGES
                }
    assert timed > 30


def test_the_latency_of_a_service_is_there_if_its_result_came_in_the_turn() -> None:
    """Also where the request was made before the turn, as docs/history.md says; counted from the events."""
    early = 0
    for session_id, lines in logs().items():
        resolved: dict[int, int] = {}
        turn = 0  # the open one
        for step in steps(lines):
            events = [event for event, _ in step]
            is_rejected = any(isinstance(event, derived.EventRejected) for event in events)
            if isinstance(first := events[0], inputs.IntentResolved) and turn and not is_rejected:
                resolved.setdefault(turn, first.elapsed_us)
            for event in events:
                if isinstance(event, derived.TurnStarted | derived.TurnEnded):
                    turn = event.turn if isinstance(event, derived.TurnStarted) else 0
        for row in expected({session_id: lines})["turns"]:
            early += bool(row["speculation"] and row["intent_us"] is not None)
            assert row["intent_us"] == resolved.get(row["turn"])
    assert early


def test_every_tool_call_and_every_response_of_a_model_is_there() -> None:
    """Also those that the reducer refused: the agent asked for them, and the tokens are paid."""
    rows = expected(logs())
    kinds = Counter(row["type"] for row in rows["events"])
    assert len(rows["tool_calls"]) == kinds["TOOL_CALLED"] > 6
    assert len(rows["model_responses"]) == kinds["MODEL_RESPONDED"] > 4
    assert {row["outcome"] for row in rows["tool_calls"]} == {"returned", "failed", "cancelled", "refused"}


def test_the_row_of_a_call_says_what_became_of_it() -> None:
    """Times of call and result, the length of the attempt that ended, and the result in the turn that asked."""

    def calls(name: str) -> list[dict[str, Any]]:
        found = {key: lines for key, lines in logs().items() if key.startswith(f"{name}/")}
        return [{key: row[key] for key in WORK if row[key] not in ("", None)} for row in expected(found)["tool_calls"]]

    called = {"turn": 1, "name": "create_reservation", "arguments": '{"people":6}', "called_us": 1_990_000}
    returned = {"outcome": "returned", "result": '{"order":1}', "took_us": 400_000}
    assert calls("tool_in_an_answer") == [called | returned | {"returned_us": 2_390_000}]
    assert calls("tool_result_after_the_interruption") == [called | returned | {"returned_us": 2_930_000}]
    assert calls("crash_while_a_tool_runs") == [called | returned | {"returned_us": 3_570_000}]
    assert calls("cancelled_tool_is_over") == [called | {"outcome": "cancelled", "returned_us": 3_104_000}]
    gone = "the process that ran it is gone; whether it had an effect is not known"
    failed = {"outcome": "failed", "error": gone, "took_us": 10_000_000, "returned_us": 13_704_000}
    assert calls("tool_of_a_lost_process") == [called | failed]
    refused = {"name": "end_call", "arguments": "{}", "outcome": "refused"}
    assert calls("tool_of_a_discarded_answer") == [
        refused | {"turn": 0, "called_us": 1_200_000, "error": "asked by a guess: no tool runs before its turn"},
        refused | {"turn": 1, "called_us": 2_560_000, "error": "stale: its command is not outstanding"},
    ]


def test_the_row_of_a_response_has_model_and_tokens() -> None:
    """Not the response: it stands in the archive."""
    (row,) = expected({name: log for name, log in logs().items() if name.startswith("slow_tool/")})["model_responses"]
    told = {"model": "local", "input_tokens": 212, "output_tokens": 18, "took_us": 480_000, "at_us": 1_990_000}
    assert row.items() >= told.items()
    assert "create_reservation" not in str(row)


def test_a_missing_version_is_an_error() -> None:
    """A gap never goes unnoticed into the tables."""
    lines = next(iter(logs().values()))
    history = SessionHistory(new_session("s", 0))
    first, second, third, *_ = steps(lines)
    history.take(first, Changes())
    with pytest.raises(GapError, match=f"version {third[0][0].version} follows {first[-1][0].version}"):
        history.take(third, Changes())
    assert second


@pytest.mark.parametrize("batch", [1, 3])
async def test_a_fold_that_goes_on_from_the_tables_is_the_same(batch: int, tmp_path: Path) -> None:
    """After every batch everything in memory is forgotten, as after a kill, and read back from SQL."""
    sessions = dict([*list(logs().items())[::12], *((name, log) for name, log in logs().items() if "tool" in name)])
    assert len(sessions) > 4
    async with History(database_url("", tmp_path)) as history:
        position = (await history.positions(["feed"]))["feed"]
        for session_id, lines in sessions.items():
            every = list(steps(lines))
            for start in range(0, len(every), batch):
                known = (await history.load([session_id])).get(session_id)
                known = known or SessionHistory(new_session(session_id, KEYS.shard_of(session_id)))
                changes = Changes()
                for step in every[start : start + batch]:
                    known.take(step, changes)
                new = Position("feed", position.seq + 1)
                await history.write([PositionMove(position, new)], changes)
                position = new
        assert await actual(history) == expected(sessions)
