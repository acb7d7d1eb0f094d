"""The pytest plugin, as a project of somebody else's would use it: in a folder of its own, by a pytest of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.testing.conversation import Conversation
from tests.cli.service import environment, orch

CALL = Conversation.listening().at(1_000).says("hello").after(300).answers("Hi!").speaks().after(2_000).played()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one recording to be tested."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "call.jsonl").write_bytes(CALL.recording("A greeting."))
    assert orch("import", "call.jsonl", "--as-fixture", "greeting", env=environment(tmp_path)).exit_code == 0
    return tmp_path


def run(project: Path, *arguments: str) -> tuple[int, str]:
    """A pytest of its own."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
        "-q",
        *arguments,
    ]
    done = subprocess.run(
        command, cwd=project, env=environment(project), capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout


def test_a_recording_is_a_snapshot_test(project: Path) -> None:
    """It fails without its golden log, passes with it, and fails with a small diff when that is another one."""
    recordings = project / "tests" / "recordings"
    code, said = run(project)
    assert code == 1, said
    code, said = run(project, "--snapshot-update", "-W", "error")
    assert code == 0, said
    golden = recordings / "greeting.golden"
    assert golden.read_text().splitlines() == CALL.golden
    assert run(project)[0] == 0
    golden.write_text(golden.read_text().replace("Processing complete in 300ms", "Processing complete in 900ms"))
    code, said = run(project)
    assert code == 1
    assert "Processing complete in 900ms" in said
    assert "Processing complete in 300ms" in said


def test_a_recording_that_diverges_fails_with_the_report(project: Path) -> None:
    """And one that must diverge passes, by its rule and version; should it ever replay to itself, it fails."""
    recordings = project / "tests" / "recordings"
    file = recordings / "greeting.jsonl"
    old = file.read_bytes().replace(b'"text":"Hi!"', b'"text":"Ho!"')
    file.write_bytes(old)
    code, said = run(project)
    assert code == 1
    assert "ORCH1001 command mismatch" in said
    file.rename(recordings / "greeting.diverges.jsonl")
    assert run(project, "--snapshot-update")[0] == 0
    assert (recordings / "greeting.diverges.golden").read_text() == "ORCH1001 command mismatch at version 25\n"
    assert run(project)[0] == 0
    (recordings / "greeting.diverges.jsonl").write_bytes(CALL.recording())
    code, said = run(project)
    assert code == 1
    assert "must diverge, and replays to itself" in said


def test_the_log_of_an_integration_test_is_replayed_when_it_is_over(project: Path) -> None:
    """`replays(log)`: events or lines; one that another reducer wrote fails the test."""
    (project / "test_it.py").write_text(
        "from orchestrator import Conversation, given\n"
        "from events.derived import EventRejected\n"
        "from events.inputs import BargeIn\n\n"
        "call = Conversation.listening().says('hello')\n\n"
        "def test_good(replays):\n    replays(call.log)\n\n"
        "def test_bad(replays):\n    replays(call.log[:-1])\n\n"
        "def test_given():\n"
        "    late = BargeIn(session_id=call.session_id, at_us=5, producer='p', producer_seq=1)\n"
        "    given(call.log).when(late).then(phase='THINKING', turn=1)\n"
    )
    code, said = run(project, "test_it.py")
    assert code == 1
    assert "3 passed, 1 error" in said
    assert "ORCH1003 extra command" in said


def test_no_other_file_becomes_a_test(project: Path) -> None:
    """Only recordings in the folders that are named."""
    code, said = run(project, "--collect-only")
    assert code == 0
    assert "greeting.jsonl::greeting" in said
    assert "call.jsonl" not in said
    (project / "pytest.ini").write_text("[pytest]\norch_recordings = elsewhere\n")
    assert run(project, "--collect-only")[0] == 5


@pytest.mark.parametrize("arguments", [[], ["--as-fixture", "a/b"], ["--as-fixture", "greeting"]])
def test_a_name_that_cannot_be_is_refused(project: Path, arguments: list[str]) -> None:
    """None, a path, or one that is there already: exit code 3."""
    done = orch("import", "call.jsonl", *arguments, env=environment(project))
    assert done.exit_code == 3
    assert done.stderr.startswith("✗ ")
