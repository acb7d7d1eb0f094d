"""Measures whether overload slows accepted calls: turn latency p95, overloaded / unloaded.

Starts `orch serve` with a session limit and fills it with text conversations, each asking a question every second. Then
as many clients again try to connect, are refused, and reconnect with the backoff of docs/websocket.md; then without
backoff, which is worse than any real client. The three conditions alternate. Latency is measured at the client: text
sent → reply. All clients share the machine with the service. Run: `uv run python bench/overload.py`
"""

import asyncio
import os
import random
import re
import signal
import sys
import tempfile
import time
from contextlib import suppress
from itertools import count

import aiohttp

from cli.terminal import run as run_loop

LIMIT = 20
ROUNDS = 3
STRETCH_S = 12.0
RHYTHM_S = 1.0
PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0
GOAL = 1.2
READY = re.compile(rb"open (http://\S+)")


class AcceptedCalls:
    """The accepted conversations, with the latency of their turns."""

    def __init__(self, http: aiohttp.ClientSession, url: str, rhythm_s: float = RHYTHM_S) -> None:
        self.took_ms: list[float] = []
        self._rhythm_s = rhythm_s
        self._http = http
        self._url = f"{url}/orchestrate"
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, count: int) -> None:
        sockets = [await self._http.ws_connect(self._url) for _ in range(count)]
        self._tasks = [asyncio.create_task(self._ask(socket)) for socket in sockets]

    async def _ask(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        await _until(socket, type="phase", phase="LISTENING")
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * self._rhythm_s)
            began_s = time.perf_counter()
            await socket.send_json({"type": "text", "text": "when are you open"})
            await _until(socket, type="reply")
            self.took_ms.append((time.perf_counter() - began_s) * 1_000)
            await _until(socket, type="phase", phase="LISTENING")

    def broken(self) -> int:
        """Number of conversations that have ended."""
        return sum(task.done() for task in self._tasks)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Crowd:
    """Clients beyond the limit, which try to connect again and again."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.refused = 0
        self.accepted = 0
        self._http = http
        self._url = f"{url}/orchestrate"

    async def push(self, longest_s: float) -> None:
        """One client: connect until cancelled, with exponential backoff up to `longest_s`."""
        for failures in count():
            with suppress(aiohttp.ClientError):
                async with self._http.ws_connect(self._url) as socket:
                    message = await socket.receive()
                    self.refused += message.type is aiohttp.WSMsgType.CLOSE
                    self.accepted += message.type is aiohttp.WSMsgType.TEXT
            await asyncio.sleep(min(longest_s, PAUSE_S * 2**failures) * random.uniform(0.5, 1))


async def _until(socket: aiohttp.ClientWebSocketResponse, **fields: str) -> None:
    async for message in socket:
        if fields.items() <= message.json().items():
            return
    raise ConnectionError(f"closed with {socket.close_code} before {fields}")


CONDITIONS = {"unloaded": None, "twice the limit, by the rules": LONGEST_PAUSE_S, "twice the limit, at once": PAUSE_S}


async def measure(url: str) -> tuple[dict[str, list[float]], Crowd, int]:
    """Turn latencies by condition, the crowd, and the number of accepted calls that ended."""
    took: dict[str, list[float]] = {name: [] for name in CONDITIONS}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        calls, crowd = AcceptedCalls(http, url), Crowd(http, url)
        await calls.begin(LIMIT)
        await asyncio.sleep(3)
        for name, longest_s in list(CONDITIONS.items()) * ROUNDS:
            pushing = [asyncio.create_task(crowd.push(longest_s)) for _ in range(LIMIT) if longest_s]
            calls.took_ms = took[name]
            await asyncio.sleep(STRETCH_S)
            for task in pushing:
                task.cancel()
            await asyncio.gather(*pushing, return_exceptions=True)
        broken = calls.broken()
        await calls.end()
    return took, crowd, broken


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


async def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"ORCH_DATA_DIR": folder, "ORCH_MAX_SESSIONS": str(LIMIT), "ORCH_AUTH": "none"}
        service = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", "serve", "--port", "0"),
            env=environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert service.stderr is not None
        try:
            while not (found := READY.search(line := await service.stderr.readline())):
                assert line, "the service did not start"
            draining = asyncio.create_task(service.stderr.read())
            took, crowd, broken = await measure(found[1].decode())
        finally:
            service.send_signal(signal.SIGTERM)
            await service.wait()
        await draining
    p95 = {name: percentile(values, 0.95) for name, values in took.items()}
    for name in list(CONDITIONS)[1:]:
        print(f"turn latency p95, {name} / unloaded: {p95[name] / p95['unloaded']:.2f}")
    print(f"  goal, by the rules: ≤ {GOAL}")
    for name, values in took.items():
        figures = ", ".join(f"p{part} {percentile(values, part / 100):.1f} ms" for part in (50, 95, 99))
        print(f"  {name:30} {figures}   ({len(values)} turns of {LIMIT} calls)")
    print(f"  refused {crowd.refused}, accepted over the limit {crowd.accepted}, accepted calls broken {broken}")
    good = p95["twice the limit, by the rules"] <= GOAL * p95["unloaded"]
    return int(not good or crowd.accepted > 0 or broken > 0)


if __name__ == "__main__":
    sys.exit(run_loop(main()))
