"""`orch rerun`: exit codes, the report, the table over a folder, JSON."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.errors import exit_code_of
from cli.rerun import run
from tests.cli.service import ROOT, environment
from tests.rerun.calls import record

AGENTS = """
import asyncio
from pathlib import Path

from orchestrator import Orchestrator, Settings
from tests.rerun.calls import agent


async def slow(request):
    await asyncio.sleep(2)
    async for text in agent(request):
        yield text


slow.__annotations__ = agent.__annotations__


async def breaks(text: str) -> str:
    raise KeyError("menu")


def make():
    return Orchestrator(Settings(port=0), answer=agent)


def make_with_policy():
    return Orchestrator(Settings(port=0, policy_file=Path("policy.yaml")), answer=agent)


def no_answer():
    return Orchestrator(Settings(port=0))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "calls").mkdir()
    (folder / "rerun_agent.py").write_text(AGENTS)
    for file in record(folder / "calls"):
        if file.stem not in ("hours", "hello", "interrupts_the_second_sentence"):
            file.unlink()
    return folder


@pytest.fixture(autouse=True)
def _in_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    yield
    sys.modules.pop("rerun_agent", None)


def orch_rerun(*sources: str, agent: str = "rerun_agent", code: int = 0, **options: Any) -> None:
    """The command, in this process."""
    given = {"policy": "", "late_ms": 300, "as_json": False, "quiet": False} | options
    try:
        exit_code = run(sources=[*sources], agent=agent, **given)
    except Exception as error:  # noqa: BLE001 - as cli.main does
        exit_code = exit_code_of(error)
    assert exit_code == code


def test_the_command_as_it_is_called(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "rerun", "calls", "--agent", "rerun_agent:agent"],
        cwd=project,
        env=environment(project / "data") | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == [
        "✓ calls/interrupts_the_second_sentence.jsonl  2 exchanges",
        "0 of 3 conversations differ",
    ]


def test_an_agent_in_a_service_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    orch_rerun("calls", agent="rerun_agent:make", quiet=True)
    assert capsys.readouterr().out == "0 of 3 conversations differ\n"


def test_the_recorded_policy_is_in_force_unless_another_is_given(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for `rerun()` in a test; a policy of the settings that is not in force is named."""
    (project / "policy.yaml").write_text("interruption: {min_words: 5}\n")
    orch_rerun("calls", agent="rerun_agent:make_with_policy")
    assert capsys.readouterr().err == (
        "each recording keeps its own policy; policy.yaml, the policy of the settings, is in force with --policy\n"
    )
    orch_rerun("calls", agent="rerun_agent:make_with_policy", policy="policy.yaml", code=1)
    assert capsys.readouterr().err == ""


def test_a_slow_agent(capsys: pytest.CaptureFixture[str]) -> None:
    orch_rerun("calls", agent="rerun_agent:slow", code=1)
    lines = capsys.readouterr().out.splitlines()
    assert "    late      first sound after 900 → 2480 ms" in lines
    assert lines[-2].split() == ["calls/interrupts_the_second_sentence.jsonl", "late", "2"]
    assert lines[-1] == "3 of 3 conversations differ"


def test_an_agent_that_fails_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    orch_rerun("calls/hello.jsonl", agent="rerun_agent:breaks", as_json=True, code=1)
    report = json.loads(capsys.readouterr().out)
    assert (report["schema"], report["exit_code"]) == ("orch.rerun/1", 1)
    (call,) = report["recordings"]
    assert call["findings"][0]["kind"] == "failed"
    assert "KeyError" in call["findings"][0]["message"]
    assert call["exchanges"][0]["recorded"]["agent"] == "Hello! How can I help?"


def test_a_bound_of_ones_own() -> None:
    orch_rerun("calls", agent="rerun_agent:slow", late_ms=3_000)


def test_a_recording_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.jsonl").write_text("no recording\n")
    orch_rerun("calls/hello.jsonl", str(tmp_path / "broken.jsonl"), code=2)
    printed = capsys.readouterr()
    assert "broken.jsonl, line 1: not the header of a recording" in printed.err
    assert printed.out.splitlines()[-1] == "0 of 2 conversations differ, 1 unreadable"


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("calls", {"agent": "no_such:agent"}, "no module 'no_such'"),
        ("calls", {"agent": "rerun_agent:AGENT"}, "has no 'AGENT'"),
        ("calls", {"agent": "rerun_agent:no_answer"}, "has no answer function of its own"),
        ("calls", {"agent": "rerun_agent:asyncio"}, "cannot be an answer service"),
        ("nothing_here/*.jsonl", {}, "no recording (*.jsonl) there"),
        ("calls", {"policy": "none.yaml"}, "the policy in none.yaml cannot be used"),
    ],
)
def test_a_mistake_of_the_users(
    source: str, options: dict[str, str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    orch_rerun(source, code=3, **options)
    assert says in capsys.readouterr().err
