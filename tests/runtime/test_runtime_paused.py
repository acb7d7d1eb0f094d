"""A process that stood still for longer than its lease (a suspended machine, a long swap) wakes and does no harm."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from events.derived import CommandIssued, EventRejected
from events.envelope import Input
from events.inputs import SessionResumed
from orchestrator.runtime.redis.logs import read_log
from tests.runtime.conftest import MakeNode, Place
from tests.runtime.support import PATIENCE_S

ROOT = Path(__file__).parents[2]
LEASE_MS = 400

Spawn = Callable[[], Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def spawn(place: Place) -> AsyncIterator[Spawn]:
    """Starts nodes in processes of their own; all are killed when the test is over."""
    started: list[asyncio.subprocess.Process] = []

    async def start() -> asyncio.subprocess.Process:
        keys = place.keys
        arguments = ("-m", "tests.runtime.node_process", place.url, keys.prefix, str(keys.shards), str(LEASE_MS))
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        await process.wait()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(2 * PATIENCE_S):
        return (await process.stdout.readline()).decode().strip()


async def test_a_node_that_was_paused_longer_than_its_lease_does_no_harm(
    spawn: Spawn, make_node: MakeNode, place: Place
) -> None:
    """Another node has the call by then. The paused one commits nothing more and sends its client away; the answer that
    it was waiting for is cancelled, or comes too late to count.
    """
    paused = await spawn()
    word, session_id = (await line(paused)).split()
    assert word == "asked"
    os.kill(paused.pid, signal.SIGSTOP)
    other = await make_node(lease_ms=LEASE_MS)
    resumed = await other.watch.event(session_id, SessionResumed)

    os.kill(paused.pid, signal.SIGCONT)
    assert await line(paused) == "sent away"
    await other.watch.phase(session_id, "SPEAKING")

    log = await read_log(place.redis, place.keys, session_id)
    after = [event for event in log if event.version >= resumed.version and isinstance(event, Input)]
    assert {event.incarnation for event in after} == {resumed.incarnation}
    late = {event.event_id for event in after if event.producer != resumed.producer}
    assert late <= {event.cause for event in log if isinstance(event, EventRejected)}
    assert len([event for event in log if isinstance(event, CommandIssued) and event.name == "Speak"]) == 1
