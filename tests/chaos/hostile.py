"""Hostile clients beside the good callers: each behaviour of bench/hostile_clients.py at each node, while it lives."""

import asyncio
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADDRESS = "127.0.0.2"
LONG_S = 36_000
SHORT_FORM = ("types 29 times a second", "speaks and goes", "comes back all the time", "pings", "no JSON")


class HostileClients:
    """The clients of one node; they come back by themselves while it does not answer."""

    def __init__(self) -> None:
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self, behaviours: tuple[str, ...], url: str) -> None:
        for name in behaviours:
            arguments = ("-m", "bench.hostile_clients", name, url, str(LONG_S), ADDRESS)
            self._processes.append(await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT))

    async def end(self) -> None:
        """Kill them. One that ended by itself has failed: the load was not what it should have been."""
        ended = [process.returncode for process in self._processes if process.returncode is not None]
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        self._processes.clear()
        assert not ended, f"hostile clients ended by themselves, with {ended}"
