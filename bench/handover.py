"""Measures how long a call has no owner during a handover: lease released → first step committed by the new owner.

Two nodes in one process, 64 shards. The calls wait for their answers, so that each handover cancels and retries a
request; their shard moves back and forth. Run: `uv run python bench/handover.py [HAND_OVERS] [CALLS]`
"""

import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from bench.turn_latency import Marks, StubClient, Stubs
from cli.terminal import run as run_loop
from events.envelope import Event
from events.inputs import SessionOpened, SessionResumed, SttFinal
from orchestrator.runtime.effects.effects import Services
from orchestrator.runtime.fleet import lease as leases
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from orchestrator.services.ports import Answer, Request
from orchestrator.session.policy import Policy
from orchestrator.session.state import opening

GOAL_MS = 200
LEASE_MS = 60_000
"""Longer than the run, so that no handover waits for a lease to expire."""


class Ports(Stubs):
    """Services whose answer never comes."""

    async def stream(self, request: Request) -> AsyncGenerator[str | Answer, None]:
        await asyncio.Event().wait()
        yield ""


class HandoverBench:
    """Two nodes, and the times of releases and takeovers."""

    def __init__(self, url: str) -> None:
        self.resumed: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self.released_ns = 0
        ports = Ports(Marks())
        services = Services(ports, ports, ports, ports)
        self.nodes = [Node(url, services, observer=self._committed, lease_ms=LEASE_MS) for _ in range(2)]

    def _committed(self, live: LiveSession, event: Event) -> None:
        if isinstance(event, SessionResumed):
            self.resumed.put_nowait((live.session_id, time.perf_counter_ns()))

    async def calls(self, count: int) -> list[str]:
        """Open `count` conversations on one shard, each waiting for its answer; returns their ids."""
        node = self.nodes[0]
        number, shard = next(iter(node.shards.items()))
        ids = [sid for n in range(100 * count) if node.keys.shard_of(sid := f"auto_session_{n}") == number][:count]
        for session_id in ids:
            live = shard.newborn(session_id)
            node.report(SessionOpened(session_id=session_id, **opening(Policy().recorded())))
            node.connect_client(live, StubClient())
            node.report(SttFinal(session_id=session_id, text="hello", via="text"))
        while any(node.session(one).state.phase != "THINKING" for one in ids):  # type: ignore[union-attr] # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return ids

    async def hand_over(self, ids: list[str], giver: Node, taker: Node) -> tuple[float, float]:
        """Milliseconds from the start of the handover, and from the release, to the next step of the last call."""
        (heir,) = [one for one in giver._ownership._members.members if one.node == taker._members.node]
        begun_ns = time.perf_counter_ns()
        giver._ownership.hand_over(leases.shard(giver.keys, giver.keys.shard_of(ids[0])).name, heir)
        done = [(await self.resumed.get())[1] for _ in ids]
        return (max(done) - begun_ns) / 1e6, (max(done) - self.released_ns) / 1e6

    def watch_releases(self) -> None:
        release = leases.release

        async def watched(*args: object) -> None:
            self.released_ns = time.perf_counter_ns()
            await release(*args)  # type: ignore[arg-type]

        leases.release = watched  # type: ignore[assignment]


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


async def run(count: int, calls: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedRedis(Path(folder)) as url:
            bench = HandoverBench(url)
            bench.watch_releases()
            for node in bench.nodes:
                await node.start()
            gc.collect()
            gc.freeze()  # as the service does after start-up (app.py); otherwise one collection is the p99
            ids = await bench.calls(calls)
            for node in bench.nodes:
                await node._ownership._look()  # so that the nodes know each other
            times = []
            for number in range(count):
                giver, taker = bench.nodes[number % 2], bench.nodes[1 - number % 2]
                times.append(await bench.hand_over(ids, giver, taker))
                await asyncio.gather(*(task for _, task in giver._ownership._leaving.values()))
            for node in bench.nodes:
                await node.stop()
    for words, values in zip(("giving up →", "released →"), zip(*times, strict=True), strict=True):
        p50, p99 = percentile(list(values), 0.5), percentile(list(values), 0.99)
        print(f"{words} next step of {calls} call(s): p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {max(values):.1f} ms")
    print(f"{count} hand-overs; goal: p99 ≤ {GOAL_MS} ms")
    return int(percentile([released for _, released in times], 0.99) > GOAL_MS)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    sys.exit(run_loop(run(*(numbers + [50, 1][len(numbers) :]))))
