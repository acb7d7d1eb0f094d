"""What holds users' words belongs to this user alone; what is somebody else's is not used, shut down or removed."""

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest
from redis.asyncio import Redis

from orchestrator import child_process
from orchestrator.private_files import NotPrivateError, open_private, private_folder, read_private
from orchestrator.runtime.redis.embedded import EmbeddedRedis, NoRedisServerError
from projections.history.store import History, database_url
from tests.runtime.redis_server import Server


def as_if_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on all that is there belongs to somebody else."""
    ours = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: ours + 1)


def test_what_is_made_is_closed_to_others(tmp_path: Path) -> None:
    """Whatever the umask says."""
    before = os.umask(0)
    try:
        private_folder(tmp_path / "a" / "b")
        os.close(open_private(tmp_path / "a" / "b" / "file"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b" / "file").stat().st_mode) == 0o600


def test_what_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    """Made by an earlier version, or with the usual umask."""
    folder, file = tmp_path / "open", tmp_path / "open" / "file"
    folder.mkdir(mode=0o755)
    file.touch(mode=0o644)
    private_folder(folder)
    os.close(open_private(file))
    assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(file.stat().st_mode)) == (0o700, 0o600)


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Soft or hard, to a folder or a file, of something or nothing."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for name, to in (("to-folder", "folder"), ("to-file", "file"), ("to-nothing", "nothing")):
        (tmp_path / name).symlink_to(tmp_path / to)
    os.link(tmp_path / "file", tmp_path / "second")
    with pytest.raises(NotPrivateError, match="is a link"):
        private_folder(tmp_path / "to-folder")
    for name in ("to-file", "to-nothing"):
        with pytest.raises(NotPrivateError, match="is a link"):
            open_private(tmp_path / name)
    with pytest.raises(NotPrivateError, match="hard link"):
        open_private(tmp_path / "second")
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


def test_what_is_somebody_elses_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folder and file; also one of ours that anybody could have written."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(0o666)
    with pytest.raises(NotPrivateError, match=r"written by anybody \(mode 666\)"):
        read_private(tmp_path / "file")
    (tmp_path / "folder").chmod(0o777)
    with pytest.raises(NotPrivateError, match=r"written by anybody.*ORCH_DATA_DIR"):
        private_folder(tmp_path / "folder")
    (tmp_path / "folder").chmod(0o700)
    (tmp_path / "file").chmod(0o600)
    as_if_of_another(monkeypatch)
    for look in (lambda: private_folder(tmp_path / "folder"), lambda: read_private(tmp_path / "file")):
        with pytest.raises(NotPrivateError, match="belongs to user"):
            look()


@pytest.mark.parametrize("part", ["", "redis", "redis/lock", "redis/socket"])
async def test_a_data_directory_with_a_link_in_it_is_not_used(tmp_path: Path, part: str) -> None:
    """Neither the folder nor anything that the embedded Redis writes there."""
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("mine")
    path = data / part if part else data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(elsewhere / "file" if "/" in part else elsewhere)
    with pytest.raises(NoRedisServerError, match="is a link"):
        async with EmbeddedRedis(data):
            pass
    assert [file.name for file in elsewhere.iterdir()] == ["file"]
    assert (elsewhere / "file").read_text() == "mine"


async def test_a_note_that_names_another_server_is_not_believed(tmp_path: Path) -> None:
    """A Redis in a folder that anybody may write is not ours, whoever wrote its name into our note."""
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    server = Server(str(foreign))
    await server.start()
    try:
        foreign.chmod(0o777)
        private_folder(tmp_path / "data")
        private_folder(tmp_path / "data" / "redis")
        (tmp_path / "data" / "redis" / "socket").write_text(f"{foreign}/r.sock")
        with pytest.raises(NoRedisServerError, match="written by anybody"):
            async with EmbeddedRedis(tmp_path / "data"):
                pass
        async with Redis.from_url(server.url) as redis:
            assert await redis.ping(), "it was not shut down"
        assert foreign.exists()
    finally:
        await server.kill()


async def test_a_note_that_names_no_socket_is_not_believed(tmp_path: Path) -> None:
    """A file where the socket should be, or nothing at all: the latter is a server that is gone."""
    private_folder(tmp_path / "redis")
    (tmp_path / "redis" / "socket").write_text(str(tmp_path / "file"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NoRedisServerError, match="is not a socket"):
        async with EmbeddedRedis(tmp_path):
            pass
    (tmp_path / "file").unlink()
    async with EmbeddedRedis(tmp_path) as url, Redis.from_url(url) as redis:
        assert await redis.ping()


async def test_only_what_this_process_made_is_removed(tmp_path: Path) -> None:
    """Its socket, and the folder of it if nothing else is there."""
    async with EmbeddedRedis(tmp_path) as url:
        folder = Path(url.removeprefix("unix://")).parent.resolve()
        (folder / "a file of somebody").write_text("mine")
    assert [file.name for file in folder.iterdir()] == ["a file of somebody"]
    (folder / "a file of somebody").unlink()
    folder.rmdir()


async def test_a_history_that_is_a_link_is_not_opened(tmp_path: Path) -> None:
    """SQLite itself would follow it, and write what users said elsewhere."""
    (tmp_path / "elsewhere.db").touch()
    (tmp_path / "history.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(NotPrivateError, match="is a link"):
        async with History(database_url("", tmp_path)):
            pass
    assert (tmp_path / "elsewhere.db").stat().st_size == 0


def test_a_socket_is_told_from_a_file(tmp_path: Path) -> None:
    """A fifo or a socket where a file should be does not hang the reader."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        with pytest.raises(OSError, match=r"No such device|Operation not supported"):
            open_private(tmp_path / "s")


async def test_a_child_gets_the_environment_it_needs_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No setting and no secret of the service, nor of whatever else runs in the same shell."""
    secrets = ("ORCH_REDIS_URL", "ORCH_SQL_URL", "OTEL_EXPORTER_OTLP_HEADERS", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD")
    for name in secrets:
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    process = await child_process.spawn("orchestrator.reference.recognition_worker")
    try:
        found = await asyncio.to_thread(Path(f"/proc/{process.pid}/environ").read_text)
        assert "canary" not in found
        assert "LC_ALL=C.UTF-8" in found
        assert "PATH=" in found
    finally:
        await child_process.end(process, "the recogniser", 10)
    async with EmbeddedRedis(tmp_path) as url, Redis.from_url(url) as redis:
        pid = (await redis.info("server"))["process_id"]
        assert "canary" not in await asyncio.to_thread(Path(f"/proc/{pid}/environ").read_text)
