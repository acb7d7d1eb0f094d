"""A real Redis Cluster of a test's own: three masters, each with a replica, on loopback."""

import asyncio
import os
import random
import signal
import socket
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.runtime.redis.embedded import find_server
from tests.runtime.support import soon_in_redis

MASTERS = 3
NODE_TIMEOUT_MS = 1_500
"""A master that is silent for so long is replaced by its replica."""


class Node:
    """One server of it."""

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        self._folder = folder / str(self.port)
        self._folder.mkdir()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(find_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)),
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "everysec"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        await soon_in_redis(self._answers)

    async def _answers(self) -> bool:
        try:
            return bool(await self.ask("PING"))
        except (RedisError, OSError):
            return False

    async def ask(self, *command: Any) -> Any:
        async with Redis(port=self.port) as redis:
            return await redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def pause(self) -> None:
        """It takes connections, and answers nothing."""
        assert self._process is not None, "it was started"
        self._process.send_signal(signal.SIGSTOP)

    async def resume(self) -> None:
        """It answers again, if it was paused and not killed."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()


class Cluster:
    """`async with Cluster(folder) as cluster:` then connect to `cluster.url`."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [Node(folder) for _ in range(2 * MASTERS)]

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[-1].port}"

    async def __aenter__(self) -> "Cluster":
        await asyncio.gather(*(node.start() for node in self.nodes))
        for number, node in enumerate(self.nodes):
            await node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            await self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        for number, master in enumerate(self.nodes[:MASTERS]):
            slots = range(16_384 * number // MASTERS, 16_384 * (number + 1) // MASTERS)
            await master.ask("CLUSTER", "ADDSLOTS", *slots)
        await soon_in_redis(self._all_know_all)
        for master, replica in zip(self.nodes[:MASTERS], self.nodes[MASTERS:], strict=True):
            name = (await master.ask("CLUSTER", "MYID")).decode()
            await replica.ask("CLUSTER", "REPLICATE", name)
        await soon_in_redis(self.is_whole)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(node.kill() for node in self.nodes))

    async def _all_know_all(self) -> bool:
        known = [(await _info(node))["cluster_known_nodes"] for node in self.nodes]
        return known == [str(2 * MASTERS)] * len(self.nodes)

    async def is_whole(self) -> bool:
        """All say that it works, and each replica follows its master."""
        states = [(await _info(node))["cluster_state"] for node in self.nodes]
        links = [await _replication(node) for node in self.nodes[MASTERS:]]
        return states == ["ok"] * len(states) and all(link == "up" for link in links)

    async def master_of(self, key: str) -> Node:
        """The server that has a key now."""
        slot = await self.nodes[-1].ask("CLUSTER", "KEYSLOT", key)
        for first, last, (_, port, *_), *_ in await self.nodes[-1].ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise LookupError(f"nobody has {key}")


async def _info(node: Node) -> dict[str, str]:
    reply = await node.ask("CLUSTER", "INFO")
    lines = reply if isinstance(reply, dict) else dict(line.split(":") for line in reply.decode().split())
    return {str(name): str(value) for name, value in lines.items()}


async def _replication(node: Node) -> str:
    async with Redis(port=node.port) as redis:
        return str((await redis.info("replication")).get("master_link_status"))


def _free_port() -> int:
    """One whose bus port, 10,000 higher, is free too."""
    while True:
        port = random.randrange(20_000, 50_000)
        try:
            for wanted in (port, port + 10_000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", wanted))
        except OSError:
            continue
        return port
