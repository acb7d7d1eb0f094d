"""Tables of the history. Times are microseconds since 1970; durations carry their unit in the name."""

from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text

from projections.timing import STAGES

LAYOUT = 3
"""Version of the tables. Increase it with every change of a table in FOLDED: the service then rebuilds these tables
from the archive.
"""

metadata = MetaData()


def _key(name: str, kind: Any = Text) -> Column[Any]:
    return Column(name, kind, primary_key=True)


def _column(name: str, kind: Any = Text, *, optional: bool = False) -> Column[Any]:
    return Column(name, kind, nullable=optional)


events = Table(
    "events",
    metadata,
    _key("session_id"),
    _key("version", BigInteger),
    _column("type", String(40)),
    _column("at_us", BigInteger),
    _column("turn", BigInteger),
    _column("line", Text),
)
"""The archive: every committed event in canonical form. After `orch archive`, it may be the only copy."""

sessions = Table(
    "sessions",
    metadata,
    _key("session_id"),
    _column("shard", Integer),
    _column("version", BigInteger),
    _column("phase", String(20)),
    _column("reducer_version"),
    _column("opened_us", BigInteger),
    _column("last_us", BigInteger),
    _column("ended_us", BigInteger, optional=True),
    _column("end_reason"),
    _column("turns", BigInteger),
    _column("interruptions", BigInteger),
    _column("rejected", BigInteger),
    _column("take_overs", BigInteger),
    _column("quiet_us", BigInteger),
    _column("finished_us", BigInteger),
    Index("sessions_opened", "opened_us"),
    Index("sessions_ended", "ended_us"),
)
"""One row per session. `quiet_us`: when the user stopped speaking; `finished_us`: when the reducer finished the
utterance; 0: not yet. From these times, the latency of the next turn is measured (projections/timing.py).
"""

turns = Table(
    "turns",
    metadata,
    _key("session_id"),
    _key("turn", BigInteger),
    _column("via", String(20)),
    _column("text"),
    _column("speculation", BigInteger),
    _column("intent"),
    _column("fallback"),
    _column("outcome", String(20)),
    _column("started_us", BigInteger),
    _column("ended_us", BigInteger, optional=True),
    _column("playback_id"),
    _column("intent_us", BigInteger, optional=True),
    _column("answer_us", BigInteger, optional=True),
    _column("saved_us", BigInteger, optional=True),
    *(_column(f"{stage}_us", BigInteger, optional=True) for stage in STAGES),
    _column("response_us", BigInteger, optional=True),
    Index("turns_started", "started_us"),
)

transitions = Table(
    "transitions",
    metadata,
    _key("session_id"),
    _key("version", BigInteger),
    _column("at_us", BigInteger),
    _column("turn", BigInteger),
    _column("from_phase", String(20)),
    _column("to_phase", String(20)),
    _column("reason"),
)

transcript = Table(
    "transcript",
    metadata,
    _key("session_id"),
    _key("version", BigInteger),
    _column("at_us", BigInteger),
    _column("turn", BigInteger),
    _column("speaker", String(10)),
    _column("playback_id"),
    _column("text"),
    _column("heard_text"),
    _column("heard_ms", BigInteger, optional=True),
    _column("chunks", BigInteger, optional=True),
    _column("outcome", String(20)),
)

tool_calls = Table(
    "tool_calls",
    metadata,
    _key("session_id"),
    _key("version", BigInteger),
    _column("turn", BigInteger),
    _column("call_id"),
    _column("name"),
    _column("arguments"),
    _column("outcome", String(20)),
    _column("result"),
    _column("error"),
    _column("called_us", BigInteger),
    _column("returned_us", BigInteger, optional=True),
    _column("took_us", BigInteger, optional=True),
    Index("tool_calls_called", "called_us"),
)

model_responses = Table(
    "model_responses",
    metadata,
    _key("session_id"),
    _key("version", BigInteger),
    _column("at_us", BigInteger),
    _column("turn", BigInteger),
    _column("call_id"),
    _column("model"),
    _column("input_tokens", BigInteger),
    _column("output_tokens", BigInteger),
    _column("took_us", BigInteger),
    Index("model_responses_at", "at_us"),
)
"""Responses of agents' models, without their contents: only the archive has the contents, because they are long and
repeat the transcript.
"""

unroutable = Table(
    "unroutable",
    metadata,
    _key("stream"),
    _key("ms", BigInteger),
    _key("seq", BigInteger),
    _column("reason"),
    _column("line"),
    _column("context"),
)
"""Dead letters, with the reason of each."""

positions = Table(
    "positions",
    metadata,
    _key("stream"),
    _column("ms", BigInteger),
    _column("seq", BigInteger),
    _column("session_id"),
    _column("version", BigInteger),
)
"""Checkpoint of each stream. If the stream is a feed, also the step to which the last projected entry points."""

layout = Table("layout", metadata, _key("name", String(20)), _column("version", Integer))

FOLDED = (sessions, turns, transitions, transcript, tool_calls, model_responses)
"""Tables that can be rebuilt from the archive."""
