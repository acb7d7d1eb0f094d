"""Measures the throughput of the history: events per second into SQLite on one core.

Writes recorded calls into the feeds of a real Redis, then projects them from position 0, pinned to one core.
Run: `uv run python -m bench.history [EVENTS]`
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from cli.terminal import run as run_loop
from events.envelope import Derived
from events.recording import parse
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.history.projecting import Projecting
from orchestrator.runtime.redis.connection import connect
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from orchestrator.runtime.redis.keys import Keys
from projections.history.store import History, database_url

GOAL = 10_000
"""Events per second."""
RECORDED = Path(__file__).parents[1] / "fixtures" / "real_barge_in.jsonl"


def recorded_steps() -> list[tuple[int, int, bytes]]:
    """First version, last version and lines of each step of a real call."""
    recording = parse(RECORDED.read_bytes(), RECORDED.name)
    steps: list[list[tuple[int, bytes]]] = []
    for event, line in zip(recording.events(), recording.lines, strict=True):
        if not isinstance(event, Derived):
            steps.append([])
        steps[-1].append((event.version, line))
    return [(step[0][0], step[-1][0], b"\n".join(line for _, line in step)) for step in steps]


async def fill(url: str, keys: Keys, events: int) -> int:
    """Write logs and feeds as commits do, with sessions interleaved. Returns the number of events."""
    steps = recorded_steps()
    original = json.loads(steps[0][2].partition(b"\n")[0])["session_id"].encode()
    sessions = [f"auto_session_{n}" for n in range(max(1, events // steps[-1][1]))]
    pointers = dict.fromkeys(range(keys.shards), 0)
    async with connect(url) as redis:
        for first, last, lines in steps:
            pipeline = redis.pipeline(transaction=False)
            for session_id in sessions:
                shard = keys.shard_of(session_id)
                pointers[shard] += 1
                line = lines.replace(original, session_id.encode())
                pipeline.xadd(keys.log(session_id), {"e": line}, id=f"0-{last}")
                pointer = {"s": session_id, "f": first, "t": last}
                pipeline.xadd(keys.feed(shard), pointer, id=f"0-{pointers[shard]}")  # type: ignore[arg-type]
            await pipeline.execute()
    return len(sessions) * steps[-1][1]


async def throughput(url: str, folder: Path, events: int) -> None:
    keys, counters = Keys(64, "full"), Counters()
    total = await fill(url, keys, events)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    history = History(database_url("", folder))
    everything = dict.fromkeys(range(keys.shards), "bench")
    projecting = Projecting(url, keys, history, lambda: everything, counters)
    wall, cpu = time.perf_counter(), time.process_time()
    await projecting.start()
    while counters["projected"] < total:  # noqa: ASYNC110 - the counter sets no event
        await asyncio.sleep(0.01)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    await projecting.stop()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    size = (folder / "history.db").stat().st_size / total
    print(f"{total} events into SQLite, {size:.0f} bytes each, by a process on one core:")
    print(f"  {total / wall:8.0f} events/s by the clock, {total / cpu:.0f} per second of processor time (goal {GOAL})")
    assert not counters["projection_failures"], counters


async def main(events: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        async with EmbeddedRedis(Path(name)) as url:
            await throughput(url, Path(name), events)


if __name__ == "__main__":
    run_loop(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
