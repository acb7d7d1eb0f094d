"""The pytest plugin, as a project of somebody else's would use it: in a folder of its own, by a pytest of its own."""

import re
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
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (tmp_path / "call.jsonl").write_bytes(CALL.recording("A greeting."))
    assert orch("import", "call.jsonl", "--as-fixture", "greeting", env=environment(tmp_path)).exit_code == 0
    return tmp_path


def run(project: Path, *arguments: str) -> tuple[int, str]:
    """A pytest of its own, with every plugin that is installed here: randomly, xdist, asyncio, cov, hypothesis."""
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    env = {name: value for name, value in environment(project).items() if not name.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=60, check=False)
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
    command = re.search(r"next +orch (replay .*) --dump-state", said).group(1).split()
    assert orch(*command, env=environment(project)).exit_code == 1
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
    assert re.search(r"next +orch explain ORCH1003$", said, re.MULTILINE)


BESIDE = {
    "alone": ["-p", "no:randomly", "-p", "no:xdist", "-p", "no:cov", "-p", "no:hypothesispytest"],
    "pytest-randomly": ["-p", "randomly", "-p", "no:asyncio", "--randomly-seed=7"],
    "pytest-asyncio in strict mode": ["--asyncio-mode=strict", "--import-mode=importlib"],
    "pytest-asyncio in auto mode": ["--asyncio-mode=auto", "--doctest-modules"],
    "pytest-xdist by module": ["-n", "2", "--dist", "loadscope"],
    "pytest-xdist by file": ["-n", "2", "--dist", "loadfile"],
    "pytest-cov": ["--cov", ".", "--cov-context", "test"],
    "reports": ["--junit-xml", "report.xml", "--durations", "3", "--failed-first"],
    "warnings are errors": ["-W", "error", "--strict-markers"],
}


@pytest.mark.parametrize("beside", BESIDE)
def test_recordings_are_tests_beside_the_usual_plugins(project: Path, beside: str) -> None:
    """Beside a test of the project's own with a snapshot, and a fixture of the scope of a module; one golden log is
    another one, and that test alone fails.
    """
    recordings = project / "tests" / "recordings"
    golden = "".join(f"{line}\n" for line in CALL.golden)
    for name, text in (("greeting", golden), ("ein Gruß 📞", golden), ("sub/greeting", "another\n")):
        file = recordings / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes((recordings / "greeting.jsonl").read_bytes())
        file.with_suffix(".golden").write_text(text)
    (project / "tests" / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture(autouse=True, scope='module')\ndef of_module(request):\n"
        "    assert request.module.__name__ and request.module.__file__\n"
    )
    (project / "tests" / "test_own.py").write_text(
        "from syrupy.extensions.json import JSONSnapshotExtension\n\n"
        "def test_own(snapshot):\n    assert snapshot.use_extension(JSONSnapshotExtension)\n"
    )
    code, said = run(project, *BESIDE[beside])
    assert code == 1, said
    assert "1 failed, 3 passed" in said
    assert "1 snapshot failed. 2 snapshots passed." in said
    assert "recordings/sub/greeting.jsonl::greeting" in said


def test_without_syrupy_a_recording_says_what_to_install(project: Path) -> None:
    """No error about a fixture that nobody has heard of; tests that compare no golden log run."""
    (project / "test_it.py").write_text("def test_good(replays):\n    replays([])\n")
    code, said = run(project, "-p", "no:syrupy")
    assert code == 1
    assert "1 failed, 1 passed" in said
    assert "install `orch-voice[test]`" in said


def test_a_fixture_of_the_same_name_by_another_plugin_is_named(project: Path) -> None:
    """pytest-snapshot and snapshottest have a fixture `snapshot`, too."""
    (project / "conftest.py").write_text("import pytest\n\n@pytest.fixture\ndef snapshot():\n    return []\n")
    code, said = run(project)
    assert code == 1
    assert "the fixture `snapshot` is not syrupy's" in said


@pytest.mark.parametrize("data", [b"", b"\xff\xfe{\x00", b"no recording\n"])
def test_a_recording_that_cannot_be_read_fails_in_words(project: Path, data: bytes) -> None:
    """The file and what is wrong with it; no traceback of ours."""
    (project / "tests" / "recordings" / "greeting.jsonl").write_bytes(data)
    code, said = run(project)
    assert code == 1
    assert "greeting.jsonl" in said
    assert "BadRecordingError" not in said


def test_no_other_file_becomes_a_test(project: Path) -> None:
    """Only recordings in the folders that are named."""
    code, said = run(project, "--collect-only")
    assert code == 0
    assert "greeting.jsonl::greeting" in said
    assert "call.jsonl" not in said
    (project / "pytest.ini").write_text("[pytest]\norch_recordings = elsewhere\n")
    assert run(project, "--collect-only")[0] == 5


@pytest.mark.parametrize("place", ["tests", "tests/recordings"])
def test_recordings_are_found_from_whatever_folder_pytest_runs_in(project: Path, place: str) -> None:
    """Without an ini file, pytest takes the folder in which it runs as the project's root."""
    (project / "pytest.ini").unlink()
    assert "greeting.jsonl::greeting" in run(project / place, "--collect-only")[1]


@pytest.mark.parametrize("arguments", [[], ["--as-fixture", "a/b"], ["--as-fixture", "greeting"]])
def test_a_name_that_cannot_be_is_refused(project: Path, arguments: list[str]) -> None:
    """None, a path, or one that is there already: exit code 3."""
    done = orch("import", "call.jsonl", *arguments, env=environment(project))
    assert done.exit_code == 3
    assert done.stderr.startswith("✗ ")


def test_the_folder_of_the_recordings_may_be_named_by_a_way_up(project: Path) -> None:
    """As in a project whose pytest.ini is beside the folder of the tests."""
    (project / "app").mkdir()
    (project / "pytest.ini").rename(project / "app" / "pytest.ini")
    with (project / "app" / "pytest.ini").open("a") as options:
        options.write("orch_recordings = ../tests/recordings\n")
    arguments = ("-c", "app/pytest.ini", "--rootdir", ".", "tests")
    assert run(project, *arguments, "--snapshot-update")[0] == 0
    code, said = run(project, *arguments)
    assert (code, "1 passed" in said) == (0, True), said


def test_a_recording_is_tested_once_for_each_parameter_of_a_fixture_for_all_tests(project: Path) -> None:
    """An autouse fixture with parameters, such as a backend; the golden log is one, under its usual name."""
    (project / "tests" / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture(autouse=True, params=['asyncio', 'trio'])\ndef backend(request):\n"
        "    return request.param\n"
    )
    assert run(project, "--snapshot-update")[0] == 0
    code, said = run(project, "-vv")
    assert code == 0, said
    for parameter in ("asyncio", "trio"):
        assert f"tests/recordings/greeting.jsonl::greeting[{parameter}] PASSED" in said
    assert [file.name for file in (project / "tests" / "recordings").glob("*.golden")] == ["greeting.golden"]
