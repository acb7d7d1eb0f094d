"""The embedded Redis in trouble: sockets that are removed, servers that stand still, data directories in use."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from sqlalchemy.engine import make_url

from orchestrator import Orchestrator, Settings
from orchestrator.runtime.redis import embedded, embedded_socket
from orchestrator.runtime.redis.embedded import EmbeddedRedis, NoRedisServerError
from projections.history.store import database_url
from tests.runtime.support import soon_in_redis
from tests.runtime.test_runtime_embedded import KEEPER, answers, cut_within, write


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds in the service."""
    for name, limit_s in {"WAIT_S": 1.0, "STOP_TIMEOUT_S": 1.0, "ANSWER_S": 0.3, "LOOK_S": 0.05}.items():
        monkeypatch.setattr(embedded, name, limit_s)


def server_of(folder: Path) -> int:
    """The process that writes the append-only file."""
    return int((folder / "redis" / "server.lock").read_text())


def servers(folder: Path) -> set[int]:
    """All processes that work in the directory, whatever they wrote about themselves."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "cwd") == str(folder / "redis"):  # noqa: PTH115
                found.add(int(process.name))
    return found


@contextlib.asynccontextmanager
async def keeper(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Another process that keeps the server, and its URL."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KEEPER, str(folder)), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def killed_keeper(folder: Path) -> str:
    """A server whose keeper is gone, and its URL."""
    async with keeper(folder) as (process, url):
        process.kill()
        await process.wait()
    assert await answers(url)
    return url


def path_of(url: str) -> Path:
    return Path(url.removeprefix("unix://"))


def nothing_left(folder: Path) -> None:
    assert not servers(folder)
    assert {file.name for file in (folder / "redis").iterdir()} <= {
        *("lock", "server.lock", "appendonly.aof", "appendonlydir"),
    }


LONG = "t" * 60 + "/" + "u" * 60


@pytest.mark.parametrize("name", ["data", LONG, "my töp dir", "a %20?b#c", "ümläut"])
@pytest.mark.parametrize("temporary", ["", LONG, "my töp dir"])
async def test_any_directory_holds_a_server(
    name: str, temporary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long or oddly called the data directory and that of temporary files are."""
    if temporary:
        (tmp_path / "tmp" / temporary).mkdir(parents=True)
        monkeypatch.setattr(embedded_socket.tempfile, "tempdir", str(tmp_path / "tmp" / temporary))
    folder = tmp_path / name
    async with EmbeddedRedis(folder) as url, Redis.from_url(url) as redis:
        await redis.set("a", 1)
        async with EmbeddedRedis(folder) as guest:
            assert guest == url
    assert not path_of(url).parent.is_symlink()
    nothing_left(folder)


async def test_no_place_for_a_socket_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too long, and which setting helps."""
    monkeypatch.setattr(embedded_socket, "LONGEST", 5)
    with pytest.raises(NoRedisServerError, match=r"no place for a socket.*choose another ORCH_DATA_DIR"):
        await EmbeddedRedis(tmp_path).__aenter__()
    nothing_left(tmp_path)


@pytest.mark.parametrize("long", [False, True])
async def test_a_socket_that_was_removed_comes_back(long: bool, tmp_path: Path) -> None:
    """A cleaner of temporary files took it, or the directory that it lies in, or the link that leads to it."""
    folder = tmp_path / LONG if long else tmp_path
    async with EmbeddedRedis(folder) as url:
        socket = path_of(url)
        for remove in (socket.unlink, socket.parent.unlink if long else socket.unlink):
            remove()

            async def is_back() -> bool:
                return socket.exists() and await answers(url)

            await soon_in_redis(is_back)
    nothing_left(folder)


async def test_a_stop_without_a_socket_stops_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has restored it yet, or nobody can."""
    monkeypatch.setattr(embedded, "LOOK_S", 60.0)
    for also_the_spare in (False, True):
        async with EmbeddedRedis(tmp_path) as url:
            path_of(url).unlink()
            if also_the_spare:
                (tmp_path / "redis" / "spare.sock").unlink()
        nothing_left(tmp_path)


async def test_a_frozen_server_is_killed_in_the_end(tmp_path: Path) -> None:
    """A machine that swaps, a disk that hangs: the stop has a limit. What was written is there afterwards."""
    async with asyncio.timeout(10):
        async with EmbeddedRedis(tmp_path) as url:
            async with Redis.from_url(url) as redis:
                await redis.set("kept", 1)
            os.kill(server_of(tmp_path), signal.SIGSTOP)
    nothing_left(tmp_path)
    async with EmbeddedRedis(tmp_path) as url, Redis.from_url(url) as redis:
        assert await redis.get("kept") == b"1"


@pytest.mark.parametrize("trouble", ["no socket", "no socket and no spare", "frozen", "none"])
async def test_two_servers_never_write_one_file(trouble: str, tmp_path: Path) -> None:
    """The keeper was killed, and its server cannot be reached: it is reached all the same, or ended first."""
    url = await killed_keeper(tmp_path)
    async with Redis.from_url(url) as redis:
        await redis.set("kept", 1)
    before = server_of(tmp_path)
    if "socket" in trouble:
        path_of(url).unlink()
    if "spare" in trouble:
        (tmp_path / "redis" / "spare.sock").unlink()
    if trouble == "frozen":
        os.kill(before, signal.SIGSTOP)
    async with EmbeddedRedis(tmp_path) as url:
        assert servers(tmp_path) == {server_of(tmp_path)}
        assert (server_of(tmp_path) == before) is (trouble in ("no socket", "none"))
        async with Redis.from_url(url) as redis:
            assert await redis.get("kept") == b"1"
    nothing_left(tmp_path)


async def test_a_guest_of_a_frozen_server_is_told_so(tmp_path: Path) -> None:
    """In words, within some seconds."""
    async with EmbeddedRedis(tmp_path):
        os.kill(server_of(tmp_path), signal.SIGSTOP)
        try:
            async with asyncio.timeout(5):
                with pytest.raises(NoRedisServerError, match=f"does not answer; process {os.getpid()} keeps it"):
                    await EmbeddedRedis(tmp_path).__aenter__()
        finally:
            os.kill(server_of(tmp_path), signal.SIGCONT)


async def test_a_server_that_refuses_to_stop_is_killed_in_the_end(tmp_path: Path) -> None:
    """It cannot write (MISCONF), so it refuses SIGTERM, and SHUTDOWN is refused, too."""
    gone = tmp_path / "gone"
    gone.mkdir()
    async with asyncio.timeout(10):
        async with EmbeddedRedis(tmp_path) as url, Redis.from_url(url) as redis:
            await redis.set("kept", 1)
            await redis.config_set("dir", str(gone))
            gone.rmdir()
            await redis.config_set("save", "1 1")
            await redis.bgsave()

            async def is_misconfigured() -> bool:
                return (await redis.info("persistence"))["rdb_last_bgsave_status"] == "err"

            await soon_in_redis(is_misconfigured)
            with pytest.raises(ResponseError, match="MISCONF"):
                await redis.set("kept", 2)
            await redis.execute_command("ACL", "SETUSER", "default", "-shutdown")  # type: ignore[no-untyped-call]
            server = server_of(tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
    async with EmbeddedRedis(tmp_path) as url, Redis.from_url(url) as redis:
        assert await redis.get("kept") == b"1"


def slow(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> None:
    """Servers that are started from now on have these options, too; the limits are those of a loaded machine."""
    wrapper = folder / "redis-server"
    wrapper.write_text(f'#!/bin/sh\nexec {embedded.find_server()} "$@" {" ".join(options)}\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(embedded, "find_server", lambda: str(wrapper))
    monkeypatch.setattr(embedded, "ANSWER_S", 2.0)
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 1.0)


async def fill(url: str, keys: int) -> None:
    async with Redis.from_url(url) as redis, redis.pipeline(transaction=False) as pipeline:
        for number in range(keys):
            pipeline.set(f"key {number}", 1)
        await pipeline.execute()


async def test_loading_takes_as_long_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a service that ran for long: the limits are for servers that hang. A guest waits, too."""
    async with EmbeddedRedis(tmp_path) as url:
        await fill(url, 25_000)
    slow(monkeypatch, tmp_path, "--key-load-delay", "1")
    keeper, guest = EmbeddedRedis(tmp_path), EmbeddedRedis(tmp_path)
    begun_s = time.monotonic()
    urls = await asyncio.gather(keeper.__aenter__(), guest.__aenter__())
    assert time.monotonic() - begun_s > 1.5 * embedded.START_TIMEOUT_S
    async with Redis.from_url(urls[0]) as redis:
        assert await redis.dbsize() == 25_000
    assert len(set(urls)) == 1
    for one in (guest, keeper):
        await one.__aexit__(None, None, None)
    nothing_left(tmp_path)


async def test_a_cut_file_is_rewritten_as_long_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power failed, and there is much to rewrite."""
    async with EmbeddedRedis(tmp_path) as url, Redis.from_url(url) as redis:
        await fill(url, 25_000)
        await write(redis, "cut off")
    cut_within(tmp_path / "redis", b"cut off")
    slow(monkeypatch, tmp_path, "--rdb-key-save-delay", "1")
    begun_s = time.monotonic()
    async with EmbeddedRedis(tmp_path) as url, Redis.from_url(url) as redis:
        assert time.monotonic() - begun_s > 1.2 * embedded.START_TIMEOUT_S
        assert await redis.dbsize() == 25_000
    nothing_left(tmp_path)


async def test_a_loading_server_that_is_silent_for_a_moment_is_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has loaded for longer than a server may be silent."""
    await killed_keeper(tmp_path)
    before, states = server_of(tmp_path), ["ready", "silent"]
    loads_until_s = time.monotonic() + 1.5 * embedded.WAIT_S

    async def state(_: EmbeddedRedis) -> str:
        return "loading" if time.monotonic() < loads_until_s else states.pop()

    monkeypatch.setattr(EmbeddedRedis, "_ping", state)
    async with EmbeddedRedis(tmp_path):
        assert server_of(tmp_path) == before
    nothing_left(tmp_path)


# Two programs on one data directory.


async def test_two_services_do_not_share_a_data_directory_by_accident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is refused at once, in words: which process has it, and how to share it on purpose."""
    monkeypatch.setattr(embedded, "WAIT_S", 60.0)
    async with EmbeddedRedis(tmp_path, alone=True) as url:
        with pytest.raises(
            NoRedisServerError,
            match=rf"in use by another program \(process {os.getpid()}\).*ORCH_DATA_DIR.*ORCH_REDIS_URL={url}",
        ):
            await Orchestrator(Settings(port=0, data_dir=tmp_path, recognizer="domain", voice="espeak")).__aenter__()
        async with EmbeddedRedis(tmp_path) as guest:  # the command line
            assert guest == url
        assert await answers(url)


async def test_a_service_waits_for_a_command_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`orch sessions` was faster, and keeps the server for a moment."""
    monkeypatch.setattr(embedded, "WAIT_S", 10.0)
    command = EmbeddedRedis(tmp_path)
    await command.__aenter__()
    service = EmbeddedRedis(tmp_path, alone=True)
    starting = asyncio.create_task(service.__aenter__())
    await asyncio.sleep(0.2)
    assert not starting.done()
    await command.__aexit__(None, None, None)
    assert await answers(await starting)
    await service.__aexit__(None, None, None)


@pytest.mark.parametrize("how", ["a file", "inside a file", "read-only"])
async def test_a_data_directory_that_is_none_is_said_in_words(how: str, tmp_path: Path) -> None:
    """Which one, and why."""
    path = tmp_path / "data"
    path.write_text("")
    where = {"a file": path, "inside a file": path / "deeper", "read-only": Path("/proc/orch")}  # even for root
    folder = where[how]
    with pytest.raises(NoRedisServerError, match=f"the data directory {folder} cannot be used: "):
        await EmbeddedRedis(folder).__aenter__()


def test_a_home_directory_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no shell expands it: in a unit file, a .env, a compose file, or in Python."""
    monkeypatch.setenv("HOME", str(tmp_path))
    paths: dict[str, Any] = {"data_dir": "~/data", "content_dir": "~/content", "policy_file": "~/policy.yaml"}
    environment = {f"ORCH_{name.upper()}": value for name, value in paths.items()}
    for settings in (Settings(**paths), Settings.from_environment(environment)):
        assert settings.data_dir == tmp_path / "data"
        assert settings.content_dir == tmp_path / "content"
        assert settings.policy_file == tmp_path / "policy.yaml"
    assert database_url("sqlite:///~/history.db", tmp_path).database == str(tmp_path / "history.db")


@pytest.mark.parametrize("name", ["data", "a %20?b#c", "my töp dir"])
def test_the_history_lies_in_a_directory_of_any_name(name: str, tmp_path: Path) -> None:
    """Its address is told to another process, and means the same file there."""
    url = database_url("", tmp_path / name)
    assert url.database == str(tmp_path / name / "history.db")
    assert make_url(url.render_as_string(hide_password=False)) == url
