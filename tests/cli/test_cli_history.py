"""The history on the command line: status, archive, export of what Redis has forgotten, rebuild, purge."""

import asyncio
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.codec import encode
from projections.history import store
from projections.history.fold import Changes, folded
from projections.history.store import History, Position, PositionMove, database_url
from tests.cli.service import Serve, environment, orch, orch_process
from tests.console.stored_sessions import KEYS, commit, log_named, redis_in

PATIENCE_S = 30.0


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


@pytest.fixture
def serve(env: dict[str, str]) -> Iterator[Serve]:
    service = Serve(env)
    yield service
    assert service.stop() == 0, service.stderr


def until_caught_up(env: dict[str, str]) -> str:
    """The status, as soon as nothing is behind."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        done = orch("projections", "status", env=env)
        if done.exit_code == 0 and "history\t0 steps behind" in done.stdout and "\t1 sessions" in done.stdout:
            return done.stdout
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(0.2)


async def a_dead_letter(folder: Path) -> None:
    """In SQL."""
    row = {"stream": "somewhere", "ms": 1, "seq": 0, "reason": "no session", "line": "{}", "context": ""}
    async with History(database_url("", folder)) as history:
        at = (await history.positions(["somewhere"]))["somewhere"]
        await history.write([PositionMove(at, Position("somewhere", 0, 1))], Changes(), dead_letters=[row])


def test_a_conversation_is_archived_exported_rebuilt_and_purged(
    serve: Serve, env: dict[str, str], tmp_path: Path, snapshot
) -> None:
    """Beside a running service, from its first word to the last."""
    done = orch_process("chat", "--url", serve.url, env=env, stdin="hello\n")
    assert done.returncode == 0, done.stderr
    found = re.search(r"auto_session_\d+", done.stderr)
    assert found is not None
    session_id = found[0]
    assert re.sub(r"\d{2,}( events)", r"…\1", until_caught_up(env)) == snapshot
    exported = orch("export", session_id, env=env).stdout
    dry = orch("archive", "--older-than", "0m", "--dry-run", env=env)
    assert dry.stdout == f"{session_id}\twould be archived\n"
    assert orch("sessions", env=env).stdout.startswith(f"{session_id}\tended\t")
    assert orch("archive", "--older-than", "0m", env=env).stdout == f"{session_id}\tarchived\n"
    assert orch("sessions", env=env).stdout.startswith(f"{session_id}\tarchived\t")
    assert orch("export", session_id, env=env).stdout == exported
    assert orch("replay", session_id, "--check", env=env).exit_code == 0
    rebuilt = orch("projections", "rebuild", "history", env=env)
    assert (rebuilt.exit_code, rebuilt.stderr) == (0, "1 sessions made anew\n")
    assert orch("export", session_id, env=env).stdout == exported
    assert orch("purge", "--older-than", "1d", "--yes", env=env).stderr == "0 sessions purged\n"
    asyncio.run(a_dead_letter(tmp_path))
    dry = orch("purge", session_id, "--dry-run", env=env)
    assert (dry.stdout, dry.stderr) == (f"{session_id}\twould be purged\n", "1 sessions would be purged\n")
    done = orch("purge", "auto_session_404", "--yes", env=env)
    assert (done.exit_code, done.stdout) == (5, "")
    assert (
        "auto_session_404 is left as it is: it is live, goes on in Redis, or the history does not know it"
        in done.stderr
    )
    dry = orch("purge", "--older-than", "0m", "--dry-run", env=env)
    assert dry.stderr == "1 sessions and 1 dead letters would be purged\n"
    done = orch("purge", "--older-than", "0m", "--yes", env=env)
    assert (done.stdout, done.stderr) == (f"{session_id}\tpurged\n", "1 sessions and 1 dead letters purged\n")
    assert orch("export", session_id, env=env).exit_code == 2
    assert orch("sessions", env=env).stdout == ""
    assert "history.db-wal" in {file.name for file in tmp_path.iterdir()}, "the service has the history open"
    assert not [file for file in tmp_path.glob("history.db*") if b"TURN_STARTED" in file.read_bytes()]


async def in_sql_alone(folder: Path) -> None:
    """A session whose Redis was replaced before it ended."""
    async with History(database_url("", folder)) as history:
        await history.write([], folded("auto_session_1", 0, map(encode, log_named("auto_session_1")[:40])))


@pytest.mark.parametrize("which", ["auto_session_1", "--older-than=90d"])
def test_a_session_that_never_ended_and_is_in_sql_alone_is_purged(
    env: dict[str, str], tmp_path: Path, which: str
) -> None:
    """By its id and by its age, of which its last event decides."""
    asyncio.run(in_sql_alone(tmp_path))
    assert orch("sessions", env=env).stdout.startswith("auto_session_1\tarchived\t")
    dry = orch("purge", which, "--dry-run", env=env)
    assert (dry.exit_code, dry.stdout) == (0, "auto_session_1\twould be purged\n")
    done = orch("purge", which, "--yes", env=env)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "auto_session_1\tpurged\n", "1 sessions purged\n")
    assert orch("sessions", env=env).stdout == ""


async def with_one_of_the_future(folder: Path) -> None:
    """Redis has two logs; one was written by a newer orch."""
    async with redis_in(folder) as redis, History(database_url("", folder)):
        await redis.xadd(KEYS.log("auto_session_0"), {"e": b'{"type":"FROM_THE_FUTURE","version":1}'}, id="0-1")
        await commit(redis, log_named("auto_session_1"))


def test_a_rebuild_goes_on_behind_a_log_that_cannot_be_read(env: dict[str, str], tmp_path: Path) -> None:
    """It names the session, and ends with exit code 5."""
    asyncio.run(with_one_of_the_future(tmp_path))
    done = orch("projections", "rebuild", "history", env=env)
    assert done.exit_code == 5, done.output
    left, summary = done.stderr.splitlines()
    assert left.startswith("✗ auto_session_0 is left as it is: its log cannot be read: ")
    assert "FROM_THE_FUTURE" in left
    assert summary == "1 sessions made anew, 1 left as they are"
    assert "\t1 sessions" in orch("projections", "status", env=env).stdout


def test_a_purge_beside_a_reader_tells_where_words_may_be_left(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has purged all the same, but a script must see that words may be left."""
    monkeypatch.setattr(store, "SETTLE_S", 0.2)
    asyncio.run(a_dead_letter(tmp_path))
    reader = sqlite3.connect(tmp_path / "history.db")
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM unroutable").fetchall()
    done = orch("purge", "--older-than", "0m", "--yes", env=env)
    reader.close()
    assert done.exit_code == 5, done.output
    warning, summary = done.stderr.splitlines()
    assert "history.db-wal may still hold deleted words" in warning
    assert summary == "0 sessions and 1 dead letters purged"


def test_what_is_wrong_is_said_in_words(env: dict[str, str]) -> None:
    """An age that is none, a projection that is none, a history that is not there yet."""
    assert orch("archive", "--older-than", "soon", env=env).exit_code == 3
    assert "'soon' is no age" in orch("archive", "--older-than", "soon", env=env).stderr
    assert "there is: history" in orch("projections", "rebuild", "spans", env=env).stderr
    missing = orch_process("projections", "status", env=env)
    assert missing.returncode == 2
    assert "no history at" in missing.stderr
    refused = orch_process("serve", "--port", "0", env=env | {"ORCH_SQL_URL": "mysql://localhost/x"})
    assert refused.returncode == 2
    assert "ORCH_SQL_URL: mysql" in refused.stderr
