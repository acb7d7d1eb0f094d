"""What the history costs: events per second into SQLite on one core, and what a call notices of it.

First, recorded calls are written into the feeds of a real Redis, then projected from zero by this process, held to one
core. Second, turns are timed with the history on and off, in turns of the same run, so that the ratio can be compared
between machines. Run: `uv run python bench/history.py [EVENTS] [TURNS]`
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from turn_latency import Marks as TurnMarks
from turn_latency import StubClient, StubHandler, Stubs, figures

from cli.terminal import run as run_loop
from events.derived import StateChanged
from events.envelope import Derived, Event
from events.inputs import HandlerAttached, SttFinal
from events.recording import parse
from orchestrator.runtime.archiver import NAME
from orchestrator.runtime.connection import connect
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.effects import Services
from orchestrator.runtime.embedded import EmbeddedRedis
from orchestrator.runtime.keys import Keys
from orchestrator.runtime.live import LiveSession
from orchestrator.runtime.node import Node
from orchestrator.runtime.projecting import Projecting
from projections.history.store import History, database_url

GOAL = 10_000
"""Events per second."""
BLOCK = 25
"""Turns before the history is switched on or off."""
PACE_S = 0.05
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
    """Logs and feeds as commits leave them, the sessions interleaved; how many events."""
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
    everything: dict[int, object] = dict.fromkeys(range(keys.shards), "bench")
    projecting = Projecting(url, keys, history, lambda: everything, counters)
    wall, cpu = time.perf_counter(), time.process_time()
    await projecting.start()
    while counters["projected"] < total:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    await projecting.stop()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    size = (folder / "history.db").stat().st_size / total
    print(f"{total} events into SQLite, {size:.0f} bytes each, by a process on one core:")
    print(f"  {total / wall:8.0f} events/s by the clock, {total / cpu:.0f} per second of processor time (goal {GOAL})")
    assert not counters["projection_failures"], counters


async def call(url: str, folder: Path, turns: int) -> None:
    """Turns with the history on and off, block by block."""
    marks, done = TurnMarks(), asyncio.Event()

    def observe(live: LiveSession, event: Event) -> None:
        if isinstance(event, StateChanged) and event.to_phase == "LISTENING":
            done.set()

    stubs = Stubs(marks)
    node = Node(url, Services(stubs, stubs, stubs, stubs), observer=observe)  # type: ignore[arg-type]
    await node.start()
    live = node.open_session(StubClient())
    await done.wait()
    live.handler = StubHandler(marks)  # type: ignore[assignment]
    node.report(HandlerAttached(session_id=live.session_id, handler_id="fastrtc_bench"))
    took: dict[bool, list[float]] = {True: [], False: []}
    counters = Counters()
    for block in range(2 * turns // BLOCK):
        is_on = block % 2 == 0
        if is_on:
            history = History(database_url("", folder / "call"))
            projecting = Projecting(url, node.keys, history, lambda: node.shards, counters)
            await projecting.start()
            await caught_up(url, node, live.session_id)
        for _ in range(BLOCK):
            done.clear()
            marks.at.clear()
            started = time.perf_counter_ns()
            node.report(SttFinal(session_id=live.session_id, text="hello"))
            await done.wait()
            took[is_on].append((marks.at["first audio"] - started) / 1e6)
            await asyncio.sleep(PACE_S)
        if is_on:
            await projecting.stop()
    await node.stop()
    print(f"{turns} turns with the history on, and {turns} with it off, {1 / PACE_S:.0f} a second at most:")
    for is_on, words in ((True, "on"), (False, "off")):
        print(f"  {words:4} {figures(took[is_on])}")
    p95 = {is_on: sorted(values)[int(len(values) * 0.95)] for is_on, values in took.items()}
    medians = {is_on: statistics.median(values) for is_on, values in took.items()}
    print(f"  on / off: p50 {medians[True] / medians[False]:.2f}  p95 {p95[True] / p95[False]:.2f} (goal 1.10)")
    assert counters["projected"], "it was on"


async def caught_up(url: str, node: Node, session_id: str) -> None:
    number = node.keys.shard_of(session_id)
    async with connect(url) as redis:
        while True:
            ((last, _),) = await redis.xrevrange(node.keys.feed(number), count=1)
            if await redis.hget(node.keys.positions(number), NAME) == last.partition(b"-")[2]:
                return
            await asyncio.sleep(0.02)


async def main(events: int, turns: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        async with EmbeddedRedis(Path(name)) as url:
            await throughput(url, Path(name), events)
            await call(url, Path(name), turns)


if __name__ == "__main__":
    run_loop(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 200))
