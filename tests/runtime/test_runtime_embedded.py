"""The embedded Redis: kept by one process, joined by others, adopted after a kill, and refused in words."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from orchestrator.runtime.redis import embedded
from orchestrator.runtime.redis.embedded import EmbeddedRedis, NoRedisServerError

KEEPER = """
import asyncio, sys
from pathlib import Path
from orchestrator.runtime.redis.embedded import EmbeddedRedis

async def main():
    async with EmbeddedRedis(Path(sys.argv[1])) as url:
        print(url, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


async def answers(url: str) -> bool:
    async with Redis.from_url(url) as redis:
        return bool(await redis.ping())


async def test_a_guest_joins_a_running_server_and_leaves_it_alone(tmp_path: Path) -> None:
    """The command line beside a running service: same URL, and the server outlives the guest."""
    async with EmbeddedRedis(tmp_path) as url:
        async with EmbeddedRedis(tmp_path) as guest:
            assert guest == url
        assert await answers(url)


async def test_data_survives_a_restart(tmp_path: Path) -> None:
    """What was written before a clean stop is there after the next start; nothing of the socket is left between."""
    async with EmbeddedRedis(tmp_path) as url, Redis.from_url(url) as redis:
        await redis.xadd("kept", {"e": "1"})
    folder = Path(url.removeprefix("unix://")).parent
    assert not folder.exists()
    async with EmbeddedRedis(tmp_path) as url, Redis.from_url(url) as redis:
        assert await redis.xlen("kept") == 1


async def test_half_a_commit_does_not_come_back_to_life(tmp_path: Path) -> None:
    """The power fails while a transaction is written: it never happened, and that is so after the next start, too."""
    async with EmbeddedRedis(tmp_path) as url, Redis.from_url(url) as redis:
        await write(redis, "log", "feed", "cursor")
    cut_within(tmp_path / "redis", b"cursor")
    for _ in range(2):
        async with EmbeddedRedis(tmp_path) as url, Redis.from_url(url) as redis:
            assert await redis.keys("[^a]*") == []
            await write(redis, "a later one")


def cut_within(folder: Path, word: bytes) -> None:
    """Newer servers keep the append-only file in pieces, in a folder of its own."""
    (file,) = [*folder.glob("appendonly.aof"), *folder.glob("appendonlydir/*.incr.aof")]
    os.truncate(file, file.read_bytes().rindex(word) + len(word) // 2)


async def write(redis: Redis, *names: str) -> None:
    """All of them, or none."""
    async with redis.pipeline(transaction=True) as pipeline:
        for name in names:
            pipeline.set(name, 1)
        await pipeline.execute()


async def test_a_server_whose_keeper_was_killed_is_adopted(tmp_path: Path) -> None:
    """kill -9 of the keeper leaves the server; the next start finds it, keeps it, and stops it in the end."""
    keeper = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KEEPER, str(tmp_path)), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert keeper.stdout is not None
    url = (await keeper.stdout.readline()).decode()
    os.kill(keeper.pid, signal.SIGKILL)
    await keeper.wait()
    async with EmbeddedRedis(tmp_path) as adopted, Redis.from_url(adopted) as redis:
        assert adopted == url.strip()
        await redis.set("still", "here")
    assert not os.path.exists(adopted.removeprefix("unix://"))  # noqa: ASYNC240, PTH110 - quick
    async with EmbeddedRedis(tmp_path) as fresh, Redis.from_url(fresh) as redis:
        assert fresh != adopted
        assert await redis.get("still") == b"here"


async def test_no_server_to_be_found_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install, or which setting to use; and nothing is left behind."""
    monkeypatch.setattr(embedded.shutil, "which", lambda name: None)
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoRedisServerError, match=r"redis-server or valkey-server.*ORCH_REDIS_URL"):
        await EmbeddedRedis(tmp_path).__aenter__()
    assert not [file.name for file in (tmp_path / "redis").iterdir() if "lock" not in file.name]


async def test_a_server_that_does_not_start_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own last words are in the message; the next try, with a good server, works."""
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho 'the disk is on fire'\nexit 1\n")
    broken.chmod(0o755)
    good = embedded.find_server()
    monkeypatch.setattr(embedded, "find_server", lambda: str(broken))
    redis = EmbeddedRedis(tmp_path)
    with pytest.raises(NoRedisServerError, match="the disk is on fire"):
        await redis.__aenter__()
    monkeypatch.setattr(embedded, "find_server", lambda: good)
    async with EmbeddedRedis(tmp_path) as url:
        assert await answers(url)


async def test_a_server_that_hangs_while_starting_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the timeout it is killed, and the message says so."""
    hanging, pid = tmp_path / "redis-server", tmp_path / "pid"
    hanging.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 600\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(embedded, "find_server", lambda: str(hanging))
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.5)
    with pytest.raises(NoRedisServerError, match="did not start within"):
        await EmbeddedRedis(tmp_path).__aenter__()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


async def test_a_long_data_directory_works(tmp_path: Path) -> None:
    """The socket lies where paths are short: its path may have a hundred characters, directories may have more."""
    folder = tmp_path / ("a" * 120) / ("b" * 120)
    async with EmbeddedRedis(folder) as url:
        assert await answers(url)
    assert (folder / "redis").is_dir()
