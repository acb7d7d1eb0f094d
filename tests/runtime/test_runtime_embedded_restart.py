"""An embedded Redis that dies while its service runs: the keeper starts it again, unless the service is stopping."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from events.inputs import SessionResumed, SttFinal
from orchestrator.runtime.node import Node
from orchestrator.runtime.redis import embedded
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from orchestrator.runtime.redis.keys import Keys
from tests.runtime.support import Running, StubClient, Stubs, Watch, soon, soon_in_redis
from tests.runtime.test_runtime_embedded import answers
from tests.runtime.test_runtime_embedded_trouble import killed_keeper, nothing_left, path_of, server_of, servers


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds in the service."""
    monkeypatch.setattr(embedded, "LOOK_S", 0.05)


def kill(folder: Path) -> int:
    """Kill the server of a data directory, as the kernel does when memory is short; returns its process id."""
    process = server_of(folder)
    os.kill(process, signal.SIGKILL)
    return process


async def runs_again(url: str) -> None:
    """Wait until the server answers at its URL."""

    async def is_there() -> bool:
        try:
            return await answers(url)
        except RedisError:
            return False

    await soon_in_redis(is_there)


@pytest.mark.parametrize("adopted", [False, True])
async def test_a_server_that_died_runs_again(adopted: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At the same URL, with its data, each time; also where an earlier process had started it."""
    if adopted:
        await killed_keeper(tmp_path)
    async with EmbeddedRedis(tmp_path) as url:
        for number in range(2):
            async with Redis.from_url(url) as redis:
                await redis.set(f"kept {number}", 1)
            before = kill(tmp_path)
            await runs_again(url)
            async with Redis.from_url(url) as redis:
                assert await redis.dbsize() == number + 1
            assert servers(tmp_path) == {server_of(tmp_path)} != {before}
            assert f"the Redis server in {tmp_path / 'redis'} (process {before}) has died" in caplog.text
    nothing_left(tmp_path)


async def test_the_socket_of_a_restarted_server_comes_back(tmp_path: Path) -> None:
    """Its spare leads to the server that runs now, not to the dead one."""
    async with EmbeddedRedis(tmp_path) as url:
        kill(tmp_path)
        await runs_again(url)
        spare = tmp_path / "redis" / "spare.sock"
        await soon(lambda: spare.exists() and spare.samefile(path_of(url)))
        path_of(url).unlink()
        await runs_again(url)
    nothing_left(tmp_path)


async def test_a_server_that_cannot_start_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that was full for a while: the log quotes the server, and the server runs when it can."""
    broken, good = tmp_path / "redis-server", embedded.find_server()
    broken.write_text("#!/bin/sh\necho 'the disk is full'\nexit 1\n")
    broken.chmod(0o755)
    async with EmbeddedRedis(tmp_path) as url:
        monkeypatch.setattr(embedded, "find_server", lambda: str(broken))
        kill(tmp_path)
        await soon(lambda: caplog.text.count("the disk is full") >= 2)
        monkeypatch.setattr(embedded, "find_server", lambda: good)
        await runs_again(url)
    nothing_left(tmp_path)


async def test_a_server_that_has_died_all_night_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backoff has a limit, after however many attempts."""
    monkeypatch.setattr(embedded, "MOST_PAUSE_S", 0.05)
    keeper = EmbeddedRedis(tmp_path)
    async with keeper as url:
        keeper._restarts, keeper._started_s = 5_000, time.monotonic()
        kill(tmp_path)
        await runs_again(url)
    nothing_left(tmp_path)


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_stop_ends_the_restart(restarts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is dead, or just being started again: nothing runs after the stop."""
    hanging, pid = tmp_path / "redis-server", tmp_path / "pid"
    hanging.write_text(f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}\nexec sleep 600\n")
    hanging.chmod(0o755)
    async with EmbeddedRedis(tmp_path):
        monkeypatch.setattr(embedded, "find_server", lambda: str(hanging))
        kill(tmp_path)
        if restarts:
            await soon(pid.exists)
    nothing_left(tmp_path)
    assert pid.exists() is restarts
    await asyncio.sleep(3 * embedded.LOOK_S)  # nothing announces that no server is started
    nothing_left(tmp_path)


async def test_conversations_go_on_after_a_restart(tmp_path: Path) -> None:
    """What a caller says while the server is down is answered when it runs again, and the caller is back."""
    async with EmbeddedRedis(tmp_path) as url:
        stubs, watch = Stubs(), Watch()
        node = Node(url, stubs.services(), observer=watch, keys=Keys(shards=1), lease_ms=600)
        await node.start()
        session_id = (await Running(node, stubs, watch).listening()).session_id
        kill(tmp_path)
        node.report(SttFinal(session_id=session_id, text="hello", via="text"))
        await watch.event(session_id, SessionResumed)
        live, client = node.session(session_id), StubClient("returned")
        assert live is not None
        node.connect_client(live, client)
        await watch.phase(session_id, "LISTENING", 2)
        assert client.shown == ["You said hello."]
        await node.stop()
    nothing_left(tmp_path)
