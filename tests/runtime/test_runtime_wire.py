"""The wire: calls that wait share a write, and nothing that was decided before a failure goes out after it."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLostError
from redis.exceptions import RedisError, ResponseError

from orchestrator.runtime.redis.cluster import ClusterWire
from orchestrator.runtime.redis.connection import connect, run_all, run_id
from orchestrator.runtime.redis.wire import Exchange, RedisTimeoutError, Wire
from tests.runtime.conftest import Place
from tests.runtime.proxy import LossyProxy
from tests.runtime.support import PATIENCE_S


class Counting(Wire):
    """Knows how many commands each write held, and can hold or break the next one."""

    def __init__(self, redis: Redis, connected: Any = None) -> None:
        super().__init__(redis.connection_pool.make_connection, connected)
        self.writes: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = asyncio.Event()
        self.fails: BaseException | None = None

    async def _exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        self.writes.append(len(commands))
        self.under_way.set()
        await self.gate.wait()
        if (error := self.fails) is not None:
            self.fails = None
            raise error
        return await super()._exchange(commands)


async def held(wire: Counting, *calls: list[tuple[Any, ...]]) -> list[asyncio.Task[list[Any]]]:
    """The first call is under way and cannot end; the others wait for it."""
    wire.gate.clear()
    wire.under_way.clear()
    tasks = [asyncio.create_task(wire.call("", commands)) for commands in calls]
    await wire.under_way.wait()
    return tasks


async def test_calls_that_wait_leave_in_one_write(place: Place) -> None:
    """Each gets the replies to its own commands, errors of single commands among them."""
    wire = Counting(place.redis)
    tasks = await held(wire, [("PING",)], [("ECHO", "a"), ("ECHO", "b")], [("NO SUCH",)], [("ECHO", "c")])
    wire.gate.set()
    (first, second, third, fourth) = await asyncio.gather(*tasks)
    assert (first, second, fourth) == ([b"PONG"], [b"a", b"b"], [b"c"])
    assert isinstance(third[0], ResponseError)
    assert wire.writes == [1, 4]
    await wire.close()


async def test_a_failure_takes_along_what_waits(place: Place) -> None:
    """Who made those calls did not know of it; what is called afterwards finds a new connection."""
    looked = []

    async def look(exchange: Exchange) -> None:
        looked.append(await exchange([("PING",)]))

    wire = Counting(place.redis, look)
    assert await wire.call("", [("PING",)]) == [b"PONG"]
    wire.writes.clear()
    tasks = await held(wire, [("ECHO", "a")], [("ECHO", "b")])
    wire.fails = ConnectionLostError("gone")
    wire.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in outcomes] == [ConnectionLostError] * 2
    assert await wire.call("", [("ECHO", "c")]) == [b"c"]
    assert looked == [[b"PONG"]] * 2
    await wire.close()


async def test_one_that_is_cancelled_ends_alone(place: Place) -> None:
    """Whoever waited is told that nobody knows what was done; whoever only waited and is cancelled disturbs nobody."""
    wire = Counting(place.redis)
    leading, waiting, third = await held(wire, [("ECHO", "a")], [("ECHO", "b")], [("ECHO", "c")])
    leading.cancel()
    outcomes = await asyncio.gather(leading, waiting, third, return_exceptions=True)
    assert [type(one) for one in outcomes] == [asyncio.CancelledError, ConnectionLostError, ConnectionLostError]
    wire.writes.clear()
    leading, waiting, third = await held(wire, [("ECHO", "a")], [("ECHO", "b")], [("ECHO", "c")])
    waiting.cancel()
    await asyncio.sleep(0)
    wire.gate.set()
    assert await asyncio.gather(leading, third) == [[b"a"], [b"c"]]
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await wire.close()


async def test_a_hanging_server_fails_the_call(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """After TIMEOUT_S, and so does what waits."""
    monkeypatch.setattr("orchestrator.runtime.redis.wire.TIMEOUT_S", 0.05)
    wire = Counting(connect(place.url))
    outcomes = await asyncio.gather(*await held(wire, [("PING",)], [("PING",)]), return_exceptions=True)
    assert [type(one) for one in outcomes] == [RedisTimeoutError] * 2
    await wire.close()


async def test_a_redis_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the empty words of asyncio's TimeoutError, which end a log line in nothing."""
    monkeypatch.setattr("orchestrator.runtime.redis.wire.TIMEOUT_S", 0.05)
    done = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        redis = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        wire = Wire(redis.connection_pool.make_connection)
        for asking in (wire.call("", [("PING",)]), run_all(redis, [("PING",)]), run_id(redis, ""), redis.get("key")):
            with pytest.raises(RedisTimeoutError, match=r"Redis does not answer within 0\.05 s"):
                await asking
        await wire.close()
        await redis.aclose()
        done.set()


@pytest.mark.parametrize("waits", [False, True])
async def test_a_command_on_a_path_that_went_dead_ends(
    waits: bool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of Redis like a lost connection; the next command has a new connection."""
    monkeypatch.setattr("orchestrator.runtime.redis.wire.TIMEOUT_S", 0.2)
    async with LossyProxy(place.url.removeprefix("unix://")) as proxy:
        redis = connect(proxy.url, waits=waits)
        await redis.ping()
        proxy.hold(b"HGET")
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(RedisError, match=r"does not answer within 0\.2 s"):
                await redis.hget(place.keys.state("s"), "snapshot")
        assert proxy.held == 1
        assert await redis.ping()
        await redis.aclose()


class Connection:
    """A connection that answers everything with OK."""

    def __init__(self) -> None:
        self.is_connected = False
        self._due = 0

    async def connect(self) -> None:
        self.is_connected = True

    async def send_packed_command(self, commands: Sequence[object], **_: object) -> None:
        self._due += len(commands)

    async def read_response(self) -> bytes:
        self._due -= 1
        return b"OK"

    async def disconnect(self, **_: object) -> None:
        self.is_connected = False


class Master:
    """A master of a cluster that is never reached over the network."""

    connection_class = Connection

    def __init__(self, name: str) -> None:
        self.name = name
        self.connection_kwargs: dict[str, Any] = {}


async def test_a_key_that_comes_back_to_a_master_is_compared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection of its first time there is still open. Meanwhile its data may have come from another master, which
    had lost writes. Keys that move together share the new connection.
    """
    first, second, looks = Master("first"), Master("second"), []
    at = {"a": first, "b": first, "c": second}

    async def master(_: object, key: str) -> Master:
        return at[key]

    async def connected(exchange: Exchange) -> None:
        looks.append(await exchange([("INFO",)]))

    monkeypatch.setattr("orchestrator.runtime.redis.cluster.master", master)
    wire = ClusterWire(cast("Any", None), connected)

    async def looks_for(key: str) -> int:
        before = len(looks)
        assert await wire.call(key, [("XADD", key)]) == [b"OK"]
        return len(looks) - before

    assert [await looks_for(key) for key in "abcabc"] == [1, 0, 1, 0, 0, 0]
    at |= {"a": second, "b": second}
    assert [await looks_for(key) for key in "abcabc"] == [1, 0, 0, 0, 0, 0]
    at |= {"a": first, "b": first}
    assert [await looks_for(key) for key in "abcabc"] == [1, 0, 0, 0, 0, 0]
    await wire.close()
