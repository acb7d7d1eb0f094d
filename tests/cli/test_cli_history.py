"""The history on the command line: status, archive, export of what Redis has forgotten, rebuild, purge."""

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from projections.history.fold import Changes
from projections.history.store import History, Move, Position, database_url
from tests.cli.service import Serve, environment, orch, orch_process

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
        await history.write([Move(at, Position("somewhere", 0, 1))], Changes(), dead_letters=[row])


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
    assert "auto_session_404 is left as it is: the history knows no session of this id that ended" in done.stderr
    dry = orch("purge", "--older-than", "0m", "--dry-run", env=env)
    assert dry.stderr == "1 sessions and 1 dead letters would be purged\n"
    done = orch("purge", "--older-than", "0m", "--yes", env=env)
    assert (done.stdout, done.stderr) == (f"{session_id}\tpurged\n", "1 sessions and 1 dead letters purged\n")
    assert orch("export", session_id, env=env).exit_code == 2
    assert orch("sessions", env=env).stdout == ""


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
