"""`orch replay` of files: its verdicts, its exit codes, and that it needs no Redis and loads no runtime."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.testing.conversation import Conversation
from tests.cli.service import ROOT, environment, orch, orch_process


@pytest.fixture(scope="module")
def recording() -> bytes:
    """A conversation with one answer and one interruption."""
    call = Conversation.listening().after(500).says("hello").after(200).answers("Hi! How can I help?").speaks()
    call.after(700).interrupts().after(50).fires("interrupt_pause").closes()
    call.check()
    return call.recording("cli test")


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment in which no Redis can be had: whoever asks for one gets an error."""
    return environment(tmp_path, ORCH_REDIS_URL="unix:///nonexistent/redis.sock")


def test_equal_recordings_give_their_golden_log_and_exit_code_0(
    tmp_path: Path, recording: bytes, nowhere: dict[str, str]
) -> None:
    """The golden log on standard output, the verdict on standard error."""
    file = tmp_path / "call.jsonl"
    file.write_bytes(recording)
    done = orch("replay", str(file), env=nowhere)
    assert done.exit_code == 0, done.stderr
    assert "STT FINAL | text=hello" in done.stdout
    assert "User interrupted (barge_in)" in done.stdout
    assert "identical" in done.stderr


def test_all_fixtures_replay_in_one_call(nowhere: dict[str, str]) -> None:
    """`--quiet` prints the verdicts alone."""
    files = sorted(str(file) for file in (ROOT / "fixtures").glob("*.jsonl"))
    done = orch("replay", "--quiet", *files, env=nowhere)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == len(files)


def test_a_changed_recording_gives_the_first_difference_and_exit_code_1(
    tmp_path: Path, recording: bytes, nowhere: dict[str, str]
) -> None:
    """The line, both versions, and the field that differs."""
    lines = recording.split(b"\n")
    number = next(index for index, line in enumerate(lines) if b'"to_phase":"SPEAKING"' in line)
    lines[number] = lines[number].replace(b'"reason":""', b'"reason":"magic"')
    file = tmp_path / "changed.jsonl"
    file.write_bytes(b"\n".join(lines))
    done = orch_process("replay", str(file), env=nowhere)
    assert done.returncode == 1
    assert f"diverged at line {number + 1}" in done.stderr
    assert "differs     reason: 'magic' → ''" in done.stderr


GARBAGE = {
    "empty": (b"", "the file is empty"),
    "no header": (b'{"type":"SESSION_OPENED"}\n', "line 1: not the header of a recording"),
    "binary": (bytes(range(256)) * 10, "line 1"),
    "cut off": (b'{"format":"orch.recording"}\n{"type":"STT_FI', "the file ends in the middle of a line"),
    "bad event": (b'{"format":"orch.recording"}\n{"type":"DANCE"}\n', "line 2: unknown event type 'DANCE'"),
    "an empty line": (b'{"format":"orch.recording"}\n\n', "line 2: empty line"),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_what_is_no_recording_gives_its_reason_and_exit_code_2(
    tmp_path: Path, nowhere: dict[str, str], what: str
) -> None:
    """The file and the line, no traceback."""
    data, words = GARBAGE[what]
    file = tmp_path / "garbage.jsonl"
    file.write_bytes(data)
    done = orch("replay", str(file), env=nowhere)
    assert done.exit_code == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_worst_of_several_gives_the_exit_code(tmp_path: Path, recording: bytes, nowhere: dict[str, str]) -> None:
    """A missing file is 2, and the good one is replayed all the same."""
    file = tmp_path / "call.jsonl"
    file.write_bytes(recording)
    done = orch("replay", "-q", str(tmp_path / "missing.jsonl"), str(file), env=nowhere)
    assert done.exit_code == 2
    assert "missing.jsonl" in done.stderr
    assert "identical" in done.stderr


def test_replaying_a_file_loads_neither_redis_nor_the_runtime(
    tmp_path: Path, recording: bytes, nowhere: dict[str, str]
) -> None:
    """A recording needs no service and nothing of it."""
    file = tmp_path / "call.jsonl"
    file.write_bytes(recording)
    program = (
        "import sys; from cli.replay import run; code = run([sys.argv[1]], True); "
        "print(sorted({'redis', 'aiohttp', 'faststream', 'aiortc', 'orchestrator.runtime', 'orchestrator.gateway'} "
        "& sys.modules.keys())); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], env=nowhere, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_session_without_a_redis_is_an_error_in_words(nowhere: dict[str, str]) -> None:
    """A name without a suffix is a session id; when there is no Redis, that is said in one line."""
    done = orch("replay", "auto_session_1", env=nowhere)
    assert done.exit_code == 2
    assert done.stderr.startswith("✗ ")
    assert "Traceback" not in done.stderr
