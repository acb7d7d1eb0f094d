"""What metrics and traces cost a turn: the same turns without them and with them, in rounds that alternate.

A collector, a process of its own, takes the spans. Run: `uv run python bench/telemetry.py [TURNS]`
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

from bench.turn_latency import measure_turns
from cli.terminal import run as run_loop
from events.envelope import Event
from orchestrator.runtime.embedded import EmbeddedRedis
from projections.live import Live

ROUNDS = 6
PAUSE_S = 0.1
"""Between turns: they come twice as fast as in twenty calls."""


async def measure_in_peace(turns: int, note: Callable[[Event], None]) -> list[dict[str, float]]:
    """On a Redis of their own, so that no node takes over what another one left."""
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedRedis(Path(folder)) as url:
            return await measure_turns(url, turns, note, PAUSE_S)


async def measure_both(turns: int) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Turns without telemetry and with it: metrics, and spans that a collector (a process of its own) takes."""
    here, there = multiprocessing.Pipe()
    collector = multiprocessing.Process(target=collect, args=(there,), daemon=True)
    collector.start()
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{here.recv()}"
    without, with_it = [], []
    for _ in range(ROUNDS):
        without += await measure_in_peace(turns // ROUNDS, lambda _: None)
        telemetry = Live(dict, nothing, lambda _: True)
        telemetry.start()
        with_it += await measure_in_peace(turns // ROUNDS, telemetry.note)
        await telemetry.close()
    collector.terminate()
    collector.join()
    return without, with_it


def collect(port: Connection) -> None:
    """Take whatever is posted, and keep nothing."""

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


async def nothing(_: str) -> list[Event]:
    return []


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[int(len(values) * part)]


async def main(turns: int) -> None:
    without, with_it = ([row["first audio"] for row in rows] for rows in await measure_both(turns))
    print(f"{turns} turns each, STT_FINAL appended → first audio")
    for name, part in (("p50", 0.5), ("p95", 0.95)):
        before, after = quantile(without, part), quantile(with_it, part)
        print(f"  {name}  without {before:5.2f} ms  with {after:5.2f} ms  with / without {after / before:.2f}")


if __name__ == "__main__":
    run_loop(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
