"""The wheel in an empty environment: a user's project with an events.py of its own, and a recording that is a test."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.cli.service import ROOT

CALL = ROOT / "fixtures/barge_in.jsonl"
OURS = ("ORCH_", "PYTEST_", "COV_", "PYTHONPATH", "VIRTUAL_ENV")


def run(*command: str | Path, cwd: Path) -> tuple[int, str]:
    """Exit code and all that is printed, without anything of this test run in the environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    pipe = subprocess.PIPE
    done = subprocess.run(
        command, cwd=cwd, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    code, said = run(uv(), "build", "--quiet", "--wheel", "--out-dir", folder, ROOT, cwd=folder)
    assert code == 0, said
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path) -> Path:
    """The folder of programs of an environment with nothing but `orch-voice[test]` and two plugins of pytest."""
    python = wheel.parent / "environment/bin/python"
    wanted = (f"{wheel}[test]", "pytest-randomly", "pytest-xdist")
    for arguments in (
        ("venv", "--quiet", "--python", sys.executable, wheel.parent / "environment"),
        ("pip", "install", "--quiet", "--python", python, "--constraints", ROOT / "constraints.txt", *wanted),
    ):
        code, said = run(uv(), *arguments, cwd=wheel.parent)
        assert code == 0, said
    return python.parent


def uv() -> str:
    found = os.environ.get("UV") or shutil.which("uv")  # `uv run` names itself
    if found is None:
        pytest.skip("no uv on PATH: it builds the wheel and the environment")
    return found


@pytest.fixture
def project(programs: Path, tmp_path: Path) -> Path:
    """A project whose events.py has nothing to do with ours, with a test of its own and a recording."""
    (tmp_path / "events.py").write_text("PARTIES = ['a wedding']\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_mine.py").write_text("def test_mine() -> None:\n    assert 1 + 1 == 2\n")
    code, said = run(programs / "orch", "import", CALL, "--as-fixture", "interrupted", cwd=tmp_path)
    assert code == 0, said
    return tmp_path


def passed(said: str) -> int:
    return int(re.findall(r"(\d+) passed", said)[-1])


def test_a_recording_is_a_test_in_a_project_with_an_events_module(programs: Path, project: Path) -> None:
    """Without other plugins, with pytest-randomly, and with pytest-xdist, too."""
    for options in (["-p", "no:randomly", "--snapshot-update"], [], ["-n", "2"]):
        code, said = run(programs / "pytest", *options, cwd=project)
        assert (code, passed(said)) == (0, 2), said
        assert ("Using --randomly-seed" in said) == ("no:randomly" not in options), said
    code, said = run(programs / "orch", "replay", "tests/recordings", cwd=project)
    assert code == 0, said


def test_a_shadowing_module_fails_the_recording_alone(programs: Path, project: Path) -> None:
    """`python -m pytest` looks in the project first: its own tests pass, and the recording names the file."""
    code, said = run(programs / "python", "-m", "pytest", "-q", cwd=project)
    assert (code, passed(said)) == (1, 1), said
    assert f"Python finds {project / 'events.py'} in its place" in said
    assert "Traceback" not in said


def test_without_the_extra_demo_the_service_names_what_to_install(programs: Path, tmp_path: Path) -> None:
    """The core install has no recogniser and no voice."""
    code, said = run(programs / "orch", "serve", "--port", "0", cwd=tmp_path)
    assert code == 2, said
    assert 'pip install "orch-voice[demo]"' in said
    assert "Traceback" not in said


def test_the_wheel_has_types_and_data_files(wheel: Path) -> None:
    """Type checkers read the annotations; scripts, pages and the example content come along."""
    names = {*ZipFile(wheel).namelist()}
    tracked = subprocess.run(
        ["git", "ls-files", "events", "orchestrator", "projections", "cli"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert {*tracked} - names == set()
    assert {"events/py.typed", "orchestrator/py.typed"} <= names
