"""`orch serve --reload`: which files start the service again, and how long it may take to stop."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from watchfiles import Change

from cli import reloading


@pytest.mark.parametrize("above", ["project", "build/project", "dist/venv/node_modules/project", ".hidden/project"])
@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("agent.py", True),
        (".env", True),
        ("policy.yaml", True),
        ("content/knowledge/hours.md", True),
        (".orch/auth_key.json", False),
        (".idea/run.py", False),
        ("content/.cache/a.json", False),
        ("build/agent.py", False),
        ("calls/history.json", False),
        ("calls/redis/notes.md", False),
        ("calls-of-mine/agent.py", True),
        ("notes.txt", False),
    ],
)
def test_what_starts_the_service_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: str, file: str, *, counts: bool
) -> None:
    """A file of the agent, wherever the project is; nothing of hidden folders, of tools, or of orch's own data."""
    project = tmp_path / above
    project.mkdir(parents=True)
    monkeypatch.chdir(project)
    monkeypatch.delenv("ORCH_DATA_DIR", raising=False)
    (project / ".env").write_text("ORCH_DATA_DIR=calls\n")
    assert reloading.AgentFiles()(Change.modified, str(project / file)) is counts


def test_a_data_directory_that_is_the_project_hides_no_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a setting that is wrong: the service says so, and starts again when it is corrected."""
    monkeypatch.chdir(tmp_path)
    for data_dir in (".", "..", str(tmp_path), "~nobody-of-this-name"):
        monkeypatch.setenv("ORCH_DATA_DIR", data_dir)
        assert reloading.AgentFiles()(Change.modified, str(tmp_path / "agent.py"))


class Stubborn:
    """A service that does not stop until it is killed; records what is done to it."""

    def __init__(self, command: list[str]) -> None:
        self.done: list[object] = [command[-1]]

    def poll(self) -> int | None:
        return -9 if "kill" in self.done else None

    def send_signal(self, number: int) -> None:
        self.done.append(number)

    def wait(self, timeout: float | None = None) -> int:
        self.done.append(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("orch", timeout)
        return -9

    def kill(self) -> None:
        self.done.append("kill")


def test_at_a_change_and_at_the_end_the_service_may_hand_over_its_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both times for as long as it needs to hand over calls; a service that hangs is killed."""
    started: list[Stubborn] = []

    def start(command: list[str]) -> Stubborn:
        started.append(Stubborn(command))
        return started[-1]

    def watch(folder: Path, **_: object) -> Iterator[set[tuple[Change, str]]]:
        yield {(Change.modified, str(folder / "agent.py"))}
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reloading, "watch", watch)
    monkeypatch.setattr(reloading.subprocess, "Popen", start)
    monkeypatch.setattr(reloading.signal, "signal", lambda *_: None)
    assert reloading.serve_and_reload(["agent"]) == 0
    assert [one.done for one in started] == [["agent", signal.SIGINT, 20.0, "kill", None]] * 2
    said = capsys.readouterr().err.splitlines()
    killed = "the service did not stop within 20 s and is killed"
    assert said == ["agent.py changed: starting again", killed, killed]
