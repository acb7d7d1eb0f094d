"""Measures how hostile clients affect good callers: ten callers beside each behaviour of bench/hostile_clients.py.

The service, its Redis and its history run on one core, all clients on the other. Each behaviour runs for `--seconds`,
with an equal time before and after it. As a control the same client runs against a decoy on the clients' core, so that
the client's own CPU cost is not blamed on the service. Memory is that of the service's process; `--twice` runs each
behaviour a second time, and shows how much memory grew then. "core" is how much of its core the service used, before
and during. `--keys`: the service checks callers, and the hostile client has no token.
Run: `uv run python -m bench.hostile [--seconds 20] [--only WORD] [--same-address] [--twice] [--keys]`
"""

import argparse
import asyncio
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.authentication import processor_ns
from bench.good_callers import GoodCallers, newcomer_s
from bench.hostile_clients import BEHAVIOURS
from tests.calls.service import Service

HOSTILE_ADDRESS = "127.0.0.2"
SERVICE_CORE, CLIENT_CORE = 0, 1
SETTLE_S = 3.0
SLACK_MS, SLACK = 2.0, 1.25
NEWCOMER_S = 2.0
GROWTH_MB = 5.0


@dataclass(frozen=True, slots=True)
class Row:
    """The measurements beside one behaviour; latencies (p50, p95) in milliseconds."""

    name: str
    before: tuple[float, float]
    control: tuple[float, float]
    during: tuple[float, float]
    after: tuple[float, float]
    leases_lost: int
    dropped: int
    newcomer_s: float
    core: tuple[float, float]
    memory_mb: tuple[float, float]
    grew_again_mb: float
    acted: str

    def misses(self) -> list[str]:
        """Names of the missed goals."""
        beyond = max(0.0, self.control[1] - self.before[1])
        found = []
        if self.during[1] > SLACK * self.before[1] + SLACK_MS + beyond:
            found.append("p95")
        if self.leases_lost:
            found.append("leases")
        if self.dropped:
            found.append("dropped")
        if self.newcomer_s > NEWCOMER_S:
            found.append("newcomer")
        if self.grew_again_mb > GROWTH_MB:
            found.append("memory")
        return found

    def line(self) -> str:
        spans = " | ".join(
            f"{p50:6.1f}/{p95:7.1f}" for p50, p95 in (self.before, self.control, self.during, self.after)
        )
        core = f"{self.core[0]:.0%} → {self.core[1]:.0%}"
        memory = f"{self.memory_mb[0]:.0f} → {self.memory_mb[1]:.0f} (+{self.grew_again_mb:.0f})"
        return (
            f"| {self.name:38} | {spans} | {self.leases_lost} | {self.dropped} | {self.newcomer_s:5.2f} | {core} "
            f"| {memory} | {self.acted} | {', '.join(self.misses()) or 'ok'} |"
        )


COLUMNS = (
    *("behaviour", "before p50/p95 ms", "control", "during", "after", "leases lost", "dropped", "newcomer s"),
    *("core", "MB", "acted", "missed"),
)


class Bench:
    """One service and its good callers."""

    def __init__(self, service: Service, good: GoodCallers, decoy: str, options: argparse.Namespace) -> None:
        self._service = service
        self._good = good
        self._decoy = decoy
        self._seconds: float = options.seconds
        self._address = "127.0.0.1" if options.same_address else HOSTILE_ADDRESS
        self._twice: bool = options.twice
        self._core = 0.0
        """Processor time of the service per second, in the last stretch."""

    async def row(self, name: str) -> Row:
        dropped, lost = self._good.dropped, await self._take_overs()
        before = await self._stretch()
        idle = self._core
        memory = self._rss_mb()
        control, _ = await self._beside(name, self._decoy)
        newcomer: list[float] = []
        during, acted = await self._beside(name, self._service.url, newcomer)
        busy = self._core
        after = await self._stretch()
        grown = self._rss_mb()
        if self._twice:
            await self._beside(name, self._service.url)
            await asyncio.sleep(self._seconds)
        return Row(
            name,
            before,
            control,
            during,
            after,
            await self._take_overs() - lost,
            self._good.dropped - dropped,
            max(newcomer, default=0.0),
            (idle, busy),
            (memory, grown),
            self._rss_mb() - grown if self._twice else 0.0,
            acted,
        )

    async def _stretch(self) -> tuple[float, float]:
        self._good.took_ms, used_ns = [], processor_ns(self._service.process.pid)
        await asyncio.sleep(self._seconds)
        self._core = (processor_ns(self._service.process.pid) - used_ns) / 1e9 / self._seconds
        return percentiles(self._good.took_ms)

    async def _beside(
        self, name: str, url: str, newcomer: list[float] | None = None
    ) -> tuple[tuple[float, float], str]:
        """Latencies beside a behaviour, and how often it acted. With `newcomer`, also measures new callers."""
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.hostile_clients", name, url, str(self._seconds), self._address),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        coming = asyncio.create_task(self._newcomers(newcomer)) if newcomer is not None else None
        took = await self._stretch()
        if coming is not None:
            await coming
        try:
            out, _ = await asyncio.wait_for(client.communicate(), 10)
        except TimeoutError:
            client.kill()
            out = b"killed"
        return took, out.decode().strip() or "failed"

    async def _newcomers(self, found: list[float]) -> None:
        for _ in range(3):
            await asyncio.sleep(self._seconds / 5)
            found.append(await newcomer_s(self._service))

    async def _take_overs(self) -> int:
        shown = {"Authorization": f"Bearer {self._service.token('operate')}"}
        async with aiohttp.ClientSession() as http, http.get(f"{self._service.url}/readyz", headers=shown) as answer:
            body: dict[str, Any] = await answer.json()
        return int(body["counters"].get("take_overs", 0))

    def _rss_mb(self) -> float:
        status = Path(f"/proc/{self._service.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1_024


def percentiles(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values) or [float("inf")]
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]


async def _decoy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept every request, send one message, and discard all input."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"Upgrade" in head:
            hello = b'{"type":"session","session_id":"s","resume_token":"t"}'
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + bytes([0x81, len(hello)]) + hello)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
        while await reader.read(65_536):
            pass
    except (OSError, asyncio.IncompleteReadError):
        pass  # the client is gone
    finally:
        writer.close()


async def main(options: argparse.Namespace) -> int:
    cores = os.cpu_count() or 1
    if cores > 1:
        os.sched_setaffinity(0, {SERVICE_CORE})  # inherited by the service and its child processes
    with tempfile.TemporaryDirectory() as folder:
        async with Service(Path(folder), ORCH_AUTH="keys" if options.keys else "none") as service:
            if cores > 1:
                os.sched_setaffinity(0, {CLIENT_CORE})
            decoy = await asyncio.start_server(_decoy, "127.0.0.1", 0)
            url = f"http://127.0.0.1:{decoy.sockets[0].getsockname()[1]}"
            print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
            rows = []
            for name in BEHAVIOURS:
                if options.only in name:
                    async with GoodCallers(service) as good:
                        await asyncio.sleep(SETTLE_S)
                        rows.append(await Bench(service, good, url, options).row(name))
                    print(rows[-1].line(), flush=True)
            decoy.close()
    return int(any(row.misses() for row in rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each stretch")
    parser.add_argument("--only", default="", help="behaviours whose name has these letters")
    parser.add_argument(
        "--same-address", action="store_true", help="the hostile client has the address of the good ones"
    )
    parser.add_argument("--twice", action="store_true", help="each behaviour a second time, to see memory grow")
    parser.add_argument("--keys", action="store_true", help="the service checks callers; the hostile one has no token")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(_options())))
