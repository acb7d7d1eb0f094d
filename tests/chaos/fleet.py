"""The nodes: processes that are started, killed, stopped, woken and drained."""

import asyncio
import os
import random
import re
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.chaos.hostile import HostileClients

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
TRACE = re.compile(r"(?m)^(?P<before>.*)\nTraceback \(most recent call last\):\n(?: .*\n)+(?P<error>\S.*)$")
MISSED = re.compile(r"Redis lost versions (?P<first>\d+) to (?P<last>\d+) of (?P<session>\S+), which were committed")
POLICY = """
deadlines: {intent_ms: 10000, answer_ms: 10000, tts_ms: 10000}
fallback: {failures: 0}
"""
"""No conversation ends, and none falls back to another answer, because an outage takes a while."""


@dataclass(eq=False)
class NodeProcess:
    """One node, as its operator sees it."""

    number: int
    process: asyncio.subprocess.Process
    url: str
    log: Path
    paused: bool = False
    hostile: HostileClients = field(default_factory=HostileClients)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


class Fleet:
    """All nodes of one Redis; `nodes` are those that live."""

    def __init__(self, redis_url: str, folder: Path, hostile: tuple[str, ...] = ()) -> None:
        self._hostile = hostile
        """Behaviours of hostile clients that each node has."""
        self.nodes: list[NodeProcess] = []
        self.notes = folder / "notes.jsonl"
        """What the ports of all nodes were asked."""
        self._redis_url = redis_url
        self.folder = folder
        self._policy = folder / "policy.yaml"
        self._policy.write_text(POLICY)
        self._started = 0

    async def spawn(self) -> NodeProcess:
        """One more node, as soon as it is ready."""
        self._started += 1
        log = self.folder / f"node-{self._started}.log"
        with log.open("w") as words:
            process = await self._start(words)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                line = (await process.stdout.readline()).decode().split()
            assert line[:1] == ["ready"], f"the node did not start: {log.read_text()[-2_000:]}"
        except BaseException:
            process.kill()
            await process.wait()
            raise
        node = NodeProcess(self._started, process, line[1], log)
        self.nodes.append(node)
        await node.hostile.start(self._hostile, node.url)
        return node

    async def _start(self, words: IO[str]) -> asyncio.subprocess.Process:
        arguments = ("-m", "tests.chaos.node_process", self._redis_url, str(self._policy), str(self.notes))
        return await asyncio.create_subprocess_exec(
            sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=words
        )

    async def kill(self, node: NodeProcess) -> None:
        """As `kill -9`."""
        self.nodes.remove(node)
        node.signal(signal.SIGKILL)
        await node.process.wait()
        await node.hostile.end()

    async def drain(self, node: NodeProcess) -> int:
        """As a deploy does it; returns the exit code."""
        self.nodes.remove(node)
        node.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await node.process.wait()
        finally:
            await node.hostile.end()

    async def send_hostile_away(self) -> None:
        """End the hostile clients of all nodes."""
        for node in self.nodes:
            await node.hostile.end()

    async def end(self) -> None:
        for node in list(self.nodes):
            await self.kill(node)

    def any_address(self) -> str:
        """What a load balancer would choose: a node that answers its health check, or seemed to a moment ago."""
        return random.choice([node.url for node in self.nodes if not node.paused] or ["http://127.0.0.1:1"])

    def missed_versions(self) -> list[tuple[str, int, int]]:
        """Of each loss that a node has reported: session, the last version that is left, the last there had been."""
        return [
            (found["session"], int(found["first"]) - 1, int(found["last"]))
            for log in sorted(self.folder.glob("node-*.log"))
            for found in MISSED.finditer(log.read_text(errors="replace"))
        ]

    def tracebacks(self) -> list[str]:
        """What no fault excuses: exceptions that nobody expected, in the words of the nodes."""
        return [
            f"{log.name}: {trace['before']}: {trace['error']}"
            for log in sorted(self.folder.glob("node-*.log"))
            for trace in TRACE.finditer(log.read_text(errors="replace"))
        ]
