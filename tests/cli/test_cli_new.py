"""`orch new NAME`: its project works at once, as it stands."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.cli.service import Serve, environment, orch, orch_process


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new")
    done = orch("new", str(folder / "My-shop"), env=environment(folder / "data"))
    assert (done.exit_code, done.stdout) == (0, ""), done.stderr
    return folder / "My-shop"


def test_its_own_test_passes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the folder; tests/adapters/test_build_an_agent.py does so with pytest."""
    monkeypatch.syspath_prepend(project)
    monkeypatch.delitem(sys.modules, "agent", raising=False)
    tests = runpy.run_path(str(project / "test_agent.py"))
    found = [test for name, test in tests.items() if name.startswith("test_")]
    assert len(found) == 1
    found[0]()
    monkeypatch.delitem(sys.modules, "agent")


@pytest.mark.calls
def test_the_command_of_its_dockerfile_serves_the_agent(project: Path) -> None:
    """And `orch chat` gets an answer; the conversations are in the folder that .env names."""
    (command,) = re.findall(r"^CMD (\[.*\])$", (project / "Dockerfile").read_text(), re.MULTILINE)
    assert json.loads(command)[:3] == ["orch", "serve", "agent"]
    env = environment(project / "unused")
    del env["ORCH_DATA_DIR"]
    service = Serve(env, 0, "agent", cwd=project)
    said = orch_process("chat", "--url", service.url, env=env, stdin="hello\n", cwd=project)
    assert service.stop() == 0
    assert said.stdout == "You said: hello.\nSay in agent.py what I answer.\n"
    assert (project / ".orch").is_dir()


def test_its_names_are_those_of_the_project(project: Path) -> None:
    """Nothing is left to fill in, and git does not take keys along."""
    made = {file.name for file in project.iterdir() if file.is_file()}
    assert sorted(made) == [
        *(".dockerignore", ".env", ".gitignore", "Dockerfile", "agent.py", "policy.yaml", "pyproject.toml"),
        "test_agent.py",
    ]
    assert not [name for name in made if "NAME" in (project / name).read_text()]
    assert 'name = "my-shop"' in (project / "pyproject.toml").read_text()
    assert ".env" in (project / ".gitignore").read_text().split()


@pytest.mark.parametrize(
    ("name", "words"), [("-x", "Usage"), ("a b", "cannot be the name of a project"), ("there", "exists already")]
)
def test_a_name_that_cannot_be_used_is_refused(tmp_path: Path, name: str, words: str) -> None:
    """Nothing is written over."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "agent.py").write_text("mine")
    given = name if name == "-x" else str(tmp_path / name)
    done = orch("new", given, env=environment(tmp_path / "data"))
    assert done.exit_code == 3
    assert words in done.stderr
    assert (tmp_path / "there" / "agent.py").read_text() == "mine"
