"""Measures what history, traces and metrics add to a turn: alternating rounds with all of them on, and all off.

Twenty calls share one node. A collector in its own process takes the spans; /metrics is read once a round. Prints the
median ratio of each round with them to the round before without, so that some seconds of noise on a shared machine do
not matter. Run: `uv run python -m bench.projections_cost [TURNS [NAME]]` (NAME: only history, or only telemetry).
"""

import asyncio
import gc
import multiprocessing
import os
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from bench.turn_latency import Marks, StubClient, StubHandler, Stubs, figures, quantile
from cli.terminal import run as run_loop
from events.derived import StateChanged
from events.envelope import Event
from events.inputs import HandlerAttached, SessionCloseRequested, SttFinal
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.effects.effects import Services
from orchestrator.runtime.history.archiver import NAME, published
from orchestrator.runtime.history.reconcile import ends
from orchestrator.runtime.history.supervisor import HistoryKeeper
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node
from orchestrator.runtime.redis.connection import connect
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from projections.quiet import Quiet
from projections.telemetry import Telemetry

CALLS = 20
"""Calls at the same time, each with at most one turn per second."""
ROUND = 60
"""Turns measured before the projections are switched on or off."""
WARM_UP = 20
PAUSE_S = 0.05
EVERY = ("history", "telemetry")


class ProjectionsBench:
    """A node whose projections can be switched on and off."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._marks = Marks()
        self._reached = asyncio.Event()
        self._quiet = Quiet()
        self._telemetry: Telemetry | None = None
        self._history: HistoryKeeper | None = None
        self.counters = Counters()
        stubs = Stubs(self._marks)
        self.node = Node(url, Services(stubs, stubs, stubs, stubs), observer=self._observe)

    def _observe(self, live: LiveSession, event: Event) -> None:
        if self._telemetry is not None:
            self._telemetry.note(event)
        self._quiet.note()
        if isinstance(event, StateChanged) and event.to_phase in ("LISTENING", "ENDED"):
            self._reached.set()

    def _owned(self) -> dict[int, str]:
        return {number: shard.lease.token for number, shard in self.node.shards.items()}

    async def switch_on(self, names: tuple[str, ...]) -> None:
        if "telemetry" in names:
            self._telemetry = Telemetry(dict, nothing, lambda _: True, quiet=self._quiet)
            self._telemetry.start()
        if "history" in names:
            self._history = HistoryKeeper(self._url, self.node.keys, "", self._folder, self._owned, self.counters)
            await self._history.start()
            await self._caught_up()  # events of the round without are not measured

    async def switch_off(self) -> None:
        """Stop the projections after they have caught up, so that no work runs into the next round."""
        if self._history is not None:
            await self._caught_up()
            await self._history.stop()
        if self._telemetry is not None:
            await self._telemetry.close()
        self._telemetry = self._history = None

    async def _caught_up(self) -> None:
        """Wait until the published positions reach the ends of the feeds."""
        async with connect(self._url) as redis:
            while True:
                end = await ends(redis, self.node.keys, set(range(self.node.keys.shards)))
                there = await published(redis, self.node.keys, end)
                if all(there[number].get(NAME, 0) == position.seq for number, position in end.items()):
                    return
                await asyncio.sleep(0.02)

    async def converse(self) -> list[float]:
        """Run a round; milliseconds from each STT_FINAL to the first audio of its answer."""
        calls = [await self._call() for _ in range(CALLS)]
        took = []
        for number in range(WARM_UP + ROUND):
            self._marks.at.clear()
            started = time.perf_counter_ns()
            self.node.report(SttFinal(session_id=calls[number % CALLS], text="hello"))
            await self._is_reached()
            took.append((self._marks.at["first audio"] - started) / 1e6)
            await asyncio.sleep(PAUSE_S)
        if self._telemetry is not None:
            await self._telemetry.page()
        for session_id in calls:
            self.node.report(SessionCloseRequested(session_id=session_id, reason="goodbye"))
            await self._is_reached()
        return took[WARM_UP:]

    async def _call(self) -> str:
        live = self.node.open_session(StubClient())
        await self._is_reached()
        live.handler = StubHandler(self._marks)
        self.node.report(HandlerAttached(session_id=live.session_id, handler_id="fastrtc_bench"))
        return live.session_id

    async def _is_reached(self) -> None:
        await self._reached.wait()
        self._reached.clear()


def collect(port: Connection) -> None:
    """Collector process: accept every POST and discard it. Sends its port through `port`."""

    class Taker(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    port.send(server.server_port)
    server.serve_forever()


async def nothing(_: str, __: int) -> list[Event]:
    return []


async def main(turns: int, names: tuple[str, ...]) -> None:
    here, there = multiprocessing.Pipe()
    collector = multiprocessing.Process(target=collect, args=(there,), daemon=True)
    collector.start()
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{here.recv()}"
    took: dict[bool, list[list[float]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as name:
        async with EmbeddedRedis(Path(name)) as url:
            bench = ProjectionsBench(url, Path(name))
            await bench.node.start()
            await bench.converse()  # not measured: the first turns of a process are the slowest
            for number in range(2 * turns // ROUND):
                is_on = number % 2 == 1
                if is_on:
                    await bench.switch_on(names)
                gc.collect()
                gc.freeze()  # as the service does after start-up (app.py); otherwise one collection is the p95
                took[is_on].append(await bench.converse())
                if is_on:
                    await bench.switch_off()
            await bench.node.stop()
            assert "history" not in names or bench.counters["projected"], "it was on"
    collector.terminate()
    collector.join()
    rounds = len(took[True])
    print(f"{rounds * ROUND} turns with {' and '.join(names)}, as many without, STT_FINAL appended → first audio:")
    for is_on, words in ((True, "on"), (False, "off")):
        print(f"  {words:4} {figures(list(chain(*took[is_on])))}")
    for words, part in (("p50", 0.5), ("p95", 0.95)):
        pairs = zip(took[True], took[False], strict=True)
        ratios = sorted(quantile(on, part) / quantile(off, part) for on, off in pairs)
        edge = max(0, int(rounds / 2 - 0.98 * rounds**0.5))  # bounds of the median's 95 % confidence interval
        print(
            f"  {words} on / off: {median(ratios):.2f} ({ratios[edge]:.2f} to {ratios[-1 - edge]:.2f}, {rounds} rounds)"
        )
    print("  goal: p95 on / off 1.10")


if __name__ == "__main__":
    run_loop(main(int(sys.argv[1]) if len(sys.argv) > 1 else 600, tuple(sys.argv[2:]) or EVERY))
