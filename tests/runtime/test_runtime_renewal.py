"""Leases are kept under any load on the event loop, and not kept for a loop that hangs."""

import asyncio
import contextlib
import threading
import time
from pathlib import Path
from typing import cast

import pytest
import redis
from redis.asyncio import Redis

from orchestrator.runtime.fleet.membership import Membership
from orchestrator.runtime.fleet.renewal import Renewal
from orchestrator.runtime.redis.keys import Keys
from tests.runtime.conftest import MakeNode, Place

LEASE_MS = 900


@pytest.mark.parametrize("turn_s", [0.05, 0.2, 0.45])
async def test_a_busy_event_loop_loses_no_lease(make_node: MakeNode, turn_s: float) -> None:
    """Each turn of the loop takes so long, for four leases: too few turns to renew anything on it."""
    running = await make_node(lease_ms=LEASE_MS)
    before = {number: shard.lease.token for number, shard in running.node.shards.items()}
    busy_until = time.monotonic() + 4 * LEASE_MS / 1_000
    while time.monotonic() < busy_until:
        time.sleep(turn_s)  # noqa: ASYNC251 - blocking the loop is the point
        await asyncio.sleep(0)
    assert {number: shard.lease.token for number, shard in running.node.shards.items()} == before
    assert running.node.counters["take_overs"] == 0


async def test_a_hung_event_loop_loses_its_leases(make_node: MakeNode, place: Place) -> None:
    """One that does not turn at all serves nobody: after three leases others may take its calls."""
    lease_ms = 600
    running = await make_node(lease_ms=lease_ms)
    (shard, *_) = running.node.shards.values()
    with redis.Redis(unix_socket_path=str(Path(place.url.removeprefix("unix://")))) as client:
        time.sleep(2 * lease_ms / 1_000)  # noqa: ASYNC251
        assert client.exists(shard.lease.what.lease), "a short stop is load"
        time.sleep(4 * lease_ms / 1_000)  # noqa: ASYNC251
        assert not client.exists(shard.lease.what.lease)


class Client:
    """A client whose first command may swallow a cancellation, as redis-py does with a socket timeout."""

    def __init__(self, *, swallows: bool) -> None:
        self.asked = threading.Event()
        self.swallows = swallows

    def pipeline(self, *, transaction: bool) -> "Client":
        return self

    def execute_command(self, *_: object) -> None: ...

    async def execute(self, *, raise_on_error: bool) -> list[list[object]]:
        if self.swallows and not self.asked.is_set():
            self.asked.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return [[]]

    async def aclose(self) -> None: ...


def renewal(redis_client: Client) -> Renewal:
    members = Membership(cast(Redis, redis_client), Keys(), LEASE_MS)
    return Renewal(lambda: cast(Redis, redis_client), Keys(), members, LEASE_MS, held=list, lost=lambda _: None)


def its_thread(keeping: Renewal) -> threading.Thread:
    """The thread of a Renewal that is being started."""
    before = set(threading.enumerate())
    keeping.start()
    (thread,) = (one for one in threading.enumerate() if one not in before and one.name == "leases")
    return thread


async def test_a_swallowed_cancellation_does_not_keep_the_thread() -> None:
    client = Client(swallows=True)
    keeping = renewal(client)
    keeping.is_member = False  # the first command is then the renewal, which the thread awaits itself
    thread = its_thread(keeping)
    await asyncio.to_thread(client.asked.wait)
    await keeping.stop()
    thread.join(1)
    assert not thread.is_alive()


def test_a_node_that_is_dropped_without_being_stopped_leaves_no_thread() -> None:
    """Its event loop is closed; the thread would say for ever that it does not turn."""

    async def drop() -> threading.Thread:
        return its_thread(renewal(Client(swallows=False)))

    thread = asyncio.run(drop())
    thread.join(10 * LEASE_MS / 1_000)
    assert not thread.is_alive()
