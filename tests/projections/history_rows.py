"""What the tests of the history share: recordings, all rows of a database, and a rebuild to compare with."""

from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import create_async_engine

from events.recording import parse
from orchestrator.runtime.redis.keys import Keys
from projections.history import tables
from projections.history.fold import Changes, Row, SessionHistory, new_session, steps
from projections.history.store import History

FIXTURES = Path(__file__).parents[2] / "fixtures"
COMPARED = (tables.events, *tables.FOLDED)
KEYS = Keys(4)

Rows = dict[str, list[Row]]


def logs() -> dict[str, list[bytes]]:
    """Session → its log, of all recordings that have what was derived."""
    found: dict[str, list[bytes]] = {}
    for file in sorted([*FIXTURES.glob("*.jsonl"), *FIXTURES.glob("failures/*.jsonl")]):
        recording = parse(file.read_bytes(), file.name)
        if recording.header.derived:
            for event, line in zip(recording.events(), recording.lines, strict=True):
                found.setdefault(f"{file.stem}/{event.session_id}", []).append(line)
    return found


def expected(sessions: dict[str, list[bytes]], keys: Keys = KEYS) -> Rows:
    """What the tables must hold of these sessions: each folded at once, from its first event."""
    changes = Changes()
    for session_id, lines in sessions.items():
        history = SessionHistory(new_session(session_id, keys.shard_of(session_id)))
        for step in steps(lines):
            history.take(step, changes)
    return {
        "events": in_order(changes.events),
        "sessions": in_order(changes.sessions.values()),
        "turns": in_order(changes.turns.values()),
        "transitions": in_order(changes.transitions),
        "transcript": in_order(changes.transcript.values()),
        "tool_calls": in_order(changes.tool_calls.values()),
        "model_responses": in_order(changes.model_responses),
    }


def in_order(rows: Any) -> list[Row]:
    """Copies, so that later folding changes nothing."""
    return sorted(map(dict, rows), key=lambda row: (row["session_id"], row.get("version", 0), row.get("turn", 0)))


async def actual(history: History) -> Rows:
    """All rows, read by a connection of the test's own."""
    engine = create_async_engine(history.url)
    try:
        async with engine.connect() as connection:
            return {
                table.name: in_order((await connection.execute(select(table))).mappings().all()) for table in COMPARED
            }
    finally:
        await engine.dispose()
