"""Shows that what released versions left behind is read as it is: a recording, a Redis append-only file, an archive."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from orchestrator.replay.fold_on import RULES_SINCE
from orchestrator.session.state import STATE_SCHEMA
from tests.cli.service import Serve, environment, orch

RELEASED = Path(__file__).parents[2] / "fixtures" / "released"
VERSIONS = sorted(path.name for path in RELEASED.iterdir())
ENDED, LIVE = "auto_session_3341570538", "auto_session_4036315119"
"""In the append-only file of 0.1.0: one session that had ended, and one that was going on when its node was killed."""


def unpack(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    target.write_bytes(gzip.decompress(source.read_bytes()))
    target.chmod(0o600)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recording_replays_as_it_is(version: str, tmp_path: Path) -> None:
    """Nothing has to be converted."""
    call = str(RELEASED / version / "call.jsonl")
    for command in ("replay", "verify"):
        done = orch(command, call, env=environment(tmp_path))
        assert (done.exit_code, done.stdout[0]) == (0, "✓"), done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recording_is_upgraded_by_one_command(version: str, tmp_path: Path) -> None:
    """It is then under the last state schema that decides as its session did, with the whole of today's policy, and as
    green as before.
    """
    call, env = RELEASED / version / "call.jsonl", environment(tmp_path)
    done = orch("import", str(call), "--as-fixture", "call", "--folder", str(tmp_path), "--rehash", env=env)
    assert done.exit_code == 0, done.stderr
    opened = json.loads((tmp_path / "call.jsonl").read_bytes().splitlines()[1])
    assert opened["state_schema"] == RULES_SINCE - 1
    done = orch("replay", str(tmp_path / "call.jsonl"), env=env)
    assert (done.exit_code, done.stdout[0]) == (0, "✓"), done.stdout


def test_a_service_goes_on_with_the_append_only_file_of_another_version(tmp_path: Path) -> None:
    """The session that was live is taken over; both replay from the first event to the last."""
    unpack(RELEASED / "0.1.0" / "appendonly.aof.gz", tmp_path / "redis" / "appendonly.aof")
    env = environment(tmp_path)
    service = Serve(env)
    try:
        for session in (ENDED, LIVE):
            target = tmp_path / f"{session}.jsonl"
            exported = orch("export", session, "-o", str(target), env=env)
            assert exported.exit_code == 0, exported.stderr
            replayed = orch("replay", str(target), env=env)
            assert (replayed.exit_code, replayed.stdout[0]) == (0, "✓"), replayed.stdout
        assert b'"SESSION_RESUMED"' in (tmp_path / f"{LIVE}.jsonl").read_bytes()
    finally:
        assert service.stop() == 0, service.stderr


def test_an_archive_of_another_version_is_read(tmp_path: Path) -> None:
    """Redis has forgotten the sessions; the archive has them, and they replay."""
    unpack(RELEASED / "0.1.0" / "history.db.gz", tmp_path / "history.db")
    env = environment(tmp_path)
    service = Serve(env)
    try:
        exported = orch("export", ENDED, "-o", str(tmp_path / "call.jsonl"), env=env)
        assert exported.exit_code == 0, exported.stderr
        replayed = orch("replay", str(tmp_path / "call.jsonl"), env=env)
        assert (replayed.exit_code, replayed.stdout[0]) == (0, "✓"), replayed.stdout
    finally:
        assert service.stop() == 0, service.stderr


def newer(tmp_path: Path) -> Path:
    """A recording of a later day."""
    call = shutil.copy(RELEASED / "0.1.0" / "call.jsonl", tmp_path / "newer.jsonl")
    head, opened, *rest = Path(call).read_bytes().splitlines()
    said = json.loads(opened) | {"schema_version": 2, "state_schema": STATE_SCHEMA + 1}
    line = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    Path(call).write_bytes(b"\n".join([head, line, *rest, b""]))
    return Path(call)


@pytest.mark.parametrize(
    "command", [("replay",), ("verify",), ("why", "5"), ("export", "--redact", "default", "-o", "out.jsonl")]
)
def test_a_recording_of_a_newer_version_is_refused_in_a_sentence(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which names both schemas; no traceback, and no divergence that is none."""
    monkeypatch.chdir(tmp_path)
    name, *options = command
    done = orch(name, str(newer(tmp_path)), *options, env=environment(tmp_path))
    said = done.stdout + done.stderr
    assert done.exit_code == 2, said
    assert f"a newer orch opened it: state schema {STATE_SCHEMA + 1}, this one knows {STATE_SCHEMA}" in said
    assert "ORCH10" not in said
