"""`orch doctor` beside a Redis with which something is wrong, and commands beside a history that somebody holds."""

import asyncio
import os
import pty
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from orchestrator.runtime.redis.embedded import find_server
from orchestrator.runtime.redis.keys import Keys
from tests.cli.service import ORCH, environment, orch
from tests.cli.test_cli_history import a_dead_letter

KEYS = Keys()


class Server:
    """A Redis on a socket, as a user would run it."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder}/r.sock"
        self.process = subprocess.Popen(
            [
                *(find_server(), "--port", "0", "--unixsocket", str(folder / "r.sock"), "--dir", str(folder)),
                *("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
            ],
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
        )
        self.client = Redis.from_url(self.url)
        while not self.is_up():
            assert self.process.poll() is None

    def is_up(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    def fill_disk(self) -> None:
        """Its next write fails as on a full disk."""
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        while self.client.info("persistence")["aof_last_write_status"] == "ok":
            with suppress(RedisError):  # it refuses as soon as it knows
                self.client.set("something", "x" * 1000)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "redis").mkdir()
    server = Server(tmp_path / "redis")
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
def env(tmp_path: Path, server: Server) -> dict[str, str]:
    return environment(tmp_path / "data", ORCH_REDIS_URL=server.url)


def a_node_runs(client: Redis) -> None:
    """As a node leaves it in Redis: it is registered, the number of shards is written, every shard has an owner."""
    client.hset(KEYS.nodes, "node", "{}")
    client.set(KEYS.shard_count, KEYS.shards)
    for number in range(KEYS.shards):
        client.set(KEYS.lease(number), "node")


def test_nothing_is_wrong_beside_a_sound_redis(server: Server, env: dict[str, str]) -> None:
    """The words that the other tests do not find."""
    a_node_runs(server.client)
    done = orch("doctor", env=env)
    assert done.exit_code == 0, done.output
    assert "✓ nothing that could harm a caller" in done.stderr
    assert "FLUSHALL" not in done.stderr


def test_a_full_disk_is_said(server: Server, env: dict[str, str]) -> None:
    """The append-only file cannot be written, so Redis refuses every write."""
    a_node_runs(server.client)
    server.fill_disk()
    done = orch("doctor", env=env)
    assert done.exit_code == 5, done.output
    assert "its append-only file cannot be written: is its disk full?" in done.stderr
    assert "Redis refuses to write, so calls stand still: MISCONF" in done.stderr
    assert "nothing that could harm" not in done.stderr


def test_a_full_memory_a_replica_and_missing_replicas_are_said(server: Server, env: dict[str, str]) -> None:
    """Whatever makes Redis refuse to write, in its own words."""
    a_node_runs(server.client)
    for setting, value, words in (
        ("maxmemory", "1", "used memory > 'maxmemory'"),
        ("min-replicas-to-write", "1", "NOREPLICAS"),
    ):
        before = server.client.config_get(setting)[setting]
        server.client.config_set(setting, value)
        done = orch("doctor", env=env)
        server.client.config_set(setting, before)
        assert (done.exit_code, words in done.stderr) == (5, True), done.output
    server.client.replicaof("127.0.0.1", 1)
    done = orch("doctor", env=env)
    assert (done.exit_code, "read only replica" in done.stderr) == (5, True), done.output


def test_a_database_that_was_flushed_is_said(server: Server, env: dict[str, str]) -> None:
    """Beside a node that runs on, and also when the nodes were started again."""
    a_node_runs(server.client)
    server.client.flushall()
    server.client.hset(KEYS.nodes, "node", "{}")  # its heartbeat
    done = orch("doctor", env=env)
    assert done.exit_code == 5, done.output
    assert "its keys were removed from Redis (FLUSHALL" in done.stderr
    assert "shards have no owner" in done.stderr
    a_node_runs(server.client)
    done = orch("doctor", env=env)
    assert done.exit_code == 0, done.output
    assert "FLUSHALL or FLUSHDB ran 1 times" in done.stderr


@pytest.fixture
def held(tmp_path: Path, server: Server, env: dict[str, str]) -> Iterator[sqlite3.Connection]:
    """A history that another program has locked for writing."""
    assert orch("sessions", env=env).exit_code == 0
    asyncio.run(a_dead_letter(tmp_path / "data"))
    other = sqlite3.connect(tmp_path / "data" / "history.db")
    other.execute("begin exclusive")
    yield other
    other.close()


def test_a_history_that_another_program_holds_stops_no_reader(held: sqlite3.Connection, env: dict[str, str]) -> None:
    """Reading goes on; what must write says who is in the way, in one line."""
    for reading in (["sessions"], ["doctor"], ["archive", "--dry-run"], ["purge", "--older-than", "1d", "--dry-run"]):
        done = orch(*reading, env=env)
        assert done.exit_code == 0, done.output
    for writing in (["projections", "status"], ["purge", "--older-than", "0m", "--yes"]):
        done = orch(*writing, env=env)
        assert done.exit_code == 2, done.output
        (line,) = done.stderr.splitlines()
        assert "history.db cannot be used: database is locked; another program" in line
        assert "Traceback" not in done.output


def test_a_history_that_is_no_database_is_said(tmp_path: Path, env: dict[str, str]) -> None:
    """What Redis has is listed all the same."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "history.db").write_text("no database " * 100)
    for command in (["doctor"], ["sessions"], ["projections", "status"]):
        done = orch(*command, env=env)
        assert done.exit_code == (5 if command == ["doctor"] else 2), done.output
        assert "history.db cannot be used: file is not a database" in done.stderr
        assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("answer", "code", "words"), [("n", 5, "nothing is purged"), ("y", 0, "1 dead letters purged")]
)
def test_purge_asks_at_a_terminal(tmp_path: Path, env: dict[str, str], answer: str, code: int, words: str) -> None:
    """What would be gone for good; only yes is yes."""
    asyncio.run(a_dead_letter(tmp_path / "data"))
    keyboard, terminal = pty.openpty()
    os.write(keyboard, f"{answer}\n".encode())
    command = [*ORCH, "purge", "--older-than", "0m"]
    done = subprocess.run(command, env=env, stdin=terminal, capture_output=True, text=True, timeout=60, check=False)
    os.close(keyboard)
    os.close(terminal)
    assert done.returncode == code, done.stderr
    assert (
        "0 sessions and 1 dead letters will be removed from Redis and from the history, for good. Go on?" in done.stderr
    )
    assert words in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--older-than", "1d"], [], ["auto_session_1"], ["auto_session_1", "--older-than", "1d", "--yes"]]
)
def test_purge_does_nothing_that_was_not_said_plainly(env: dict[str, str], arguments: list[str]) -> None:
    """Without a terminal it wants --yes; it wants ids or an age, not both."""
    done = orch("purge", *arguments, env=env)
    assert done.exit_code == 3, done.output
    assert done.stderr.startswith("✗ ")
