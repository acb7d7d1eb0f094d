"""`orch replay` of files: its verdicts, its exit codes, and that it needs no Redis and loads no runtime."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from events.inputs import TimerFired
from orchestrator.testing.conversation import Conversation, recorded
from tests.cli.service import ORCH, ROOT, environment, orch, orch_process


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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the test is, so that reports name files shortly."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def steady(report: str) -> str:
    """Without the times, which differ from run to run."""
    return re.sub(r"\d+\.\d m?s\b", "0.0 ms", report)


def changed(recording: bytes) -> bytes:
    """The recording as an older reducer would have made it, that gave two reasons otherwise."""
    return re.sub(
        rb'"reason":"","schema(?=.*"to_phase":"(SPEAKING|INTERRUPT)")', b'"reason":"magic","schema', recording
    )


def test_an_equal_recording_gives_one_line_and_exit_code_0(
    folder: Path, recording: bytes, nowhere: dict[str, str], snapshot
) -> None:
    """How many events and commands, and where it ended."""
    (folder / "call.jsonl").write_bytes(recording)
    done = orch("replay", "call.jsonl", env=nowhere)
    assert done.exit_code == 0, done.stderr
    assert steady(done.stdout) == snapshot
    assert done.stderr == ""


def test_the_next_command_is_quoted_for_the_shell(folder: Path, recording: bytes, nowhere: dict[str, str]) -> None:
    """Whoever pastes it runs nothing of a stranger's file name or session id."""
    file, session = "$(reboot); x.jsonl", "s; $(reboot) `x`"
    (folder / file).write_bytes(changed(recording).replace(b"auto_session_12345", session.encode()))
    done = orch("replay", file, env=nowhere)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("  next"))
    _, command, name, program, source, option, place, *_ = shlex.split(f"- {line}")
    assert (command, name, program, source, option) == ("next", "orch", "replay", file, "--until")
    assert place.startswith(f"{session}:")


def test_quiet_says_nothing_of_what_is_right(folder: Path, recording: bytes, nowhere: dict[str, str]) -> None:
    """Only the exit code; what diverged is reported all the same."""
    (folder / "call.jsonl").write_bytes(recording)
    (folder / "other.jsonl").write_bytes(changed(recording))
    assert orch("replay", "-q", "call.jsonl", env=nowhere).output == ""
    done = orch("replay", "-q", "call.jsonl", "other.jsonl", env=nowhere)
    assert done.exit_code == 1
    assert done.stdout.startswith("✗ other.jsonl")


def test_a_divergence_is_reported_with_all_there_is_to_know(
    folder: Path, recording: bytes, nowhere: dict[str, str], snapshot
) -> None:
    """Rule, state before, recorded and replayed in this order, fields, what is near, and what to type next."""
    (folder / "call.jsonl").write_bytes(changed(recording))
    done = orch_process("replay", "call.jsonl", env=nowhere)
    assert done.returncode == 1
    assert steady(done.stdout) == snapshot


def test_where_the_recording_has_more_events_the_state_is_that_after_the_step(
    folder: Path, recording: bytes, nowhere: dict[str, str]
) -> None:
    """The step is folded by then."""
    *lines, last = recording.splitlines(keepends=True)
    (folder / "call.jsonl").write_bytes(b"".join([*lines, last, re.sub(rb'"version":\d+', b'"version":999', last)]))
    done = orch("replay", "call.jsonl", env=nowhere)
    assert "  state after  ENDED" in done.stdout


def test_keep_going_reports_every_divergence(folder: Path, recording: bytes, nowhere: dict[str, str], snapshot) -> None:
    """Each compared from the state that was recorded, so that the first does not hide the second."""
    (folder / "call.jsonl").write_bytes(changed(recording))
    done = orch("replay", "--keep-going", "call.jsonl", env=nowhere)
    assert done.exit_code == 1
    assert done.stdout.count("ORCH1005") == 3  # the first names its rule twice, in the title and in what to type next
    assert steady(done.stdout) == snapshot


def test_many_recordings_end_with_what_they_come_to(
    folder: Path, recording: bytes, nowhere: dict[str, str], snapshot
) -> None:
    """A folder, a pattern and a name, in the order they were given."""
    (folder / "b").mkdir()
    (folder / "b" / "two.jsonl").write_bytes(changed(recording))
    (folder / "b" / "one.jsonl").write_bytes(recording)
    (folder / "a.jsonl").write_bytes(recording)
    done = orch("replay", "b", "*.jsonl", "missing.jsonl", env=nowhere)
    assert done.exit_code == 2
    assert steady(done.stdout) == snapshot
    assert "missing.jsonl" in done.stderr


def test_json_is_one_document_and_jsonl_a_line_for_each(
    folder: Path, recording: bytes, nowhere: dict[str, str], snapshot
) -> None:
    """The same content, schema-versioned, on standard output alone."""
    (folder / "call.jsonl").write_bytes(recording)
    (folder / "other.jsonl").write_bytes(changed(recording))
    document = orch("replay", "--json", "call.jsonl", "other.jsonl", env=nowhere)
    lines = orch("replay", "--jsonl", "call.jsonl", "other.jsonl", env=nowhere)
    assert (document.exit_code, lines.exit_code) == (1, 1)
    assert json.loads(document.stdout)["recordings"] == [json.loads(line) for line in lines.stdout.splitlines()]
    assert document.stdout == snapshot


def test_check_gives_exit_code_4_where_an_invariant_is_broken(folder: Path, nowhere: dict[str, str], snapshot) -> None:
    """The reducer agrees with the log, but the log has a timer that fired before it was due."""
    call = Conversation.listening().after(500).says("hello").after(10)
    armed = call.outstanding("intent_deadline")
    call.now_us = int(str(armed.payload["due_at_us"])) - 1
    call.input(TimerFired, command_id=armed.command_id, target="intent_deadline")
    (folder / "early.jsonl").write_bytes(call.recording())
    assert orch("replay", "early.jsonl", env=nowhere).exit_code == 0
    done = orch("replay", "--check", "early.jsonl", env=nowhere)
    assert done.exit_code == 4
    assert steady(done.stdout) == snapshot


def test_a_log_that_was_cut_off_is_replayed_to_its_end(folder: Path, recording: bytes, nowhere: dict[str, str]) -> None:
    """`--incomplete ok`: the last line has no end, its step is unfinished; what would come next is said."""
    *whole, _ = recording[: recording.index(b'"type":"PROCESSING_COMPLETE"')].split(b"\n")
    (folder / "cut.jsonl").write_bytes(b"\n".join(whole) + b'\n{"at_us":70')
    assert orch("replay", "cut.jsonl", env=nowhere).exit_code == 2
    done = orch("replay", "--incomplete", "ok", "cut.jsonl", env=nowhere)
    assert done.exit_code == 0, done.output
    assert '  next         auto_session_12345: Speak(ends="", from_ms=0' in done.stdout


def test_parts_by_several_reducers_have_a_verdict_each(folder: Path, nowhere: dict[str, str], snapshot) -> None:
    """A new version took over in the middle of the call; only what the old one decided differs."""
    call = Conversation.listening().after(500).says("hello").after(200).answers("Hi!").speaks().after(2_000).played()
    call.resumes("incarnation-2").connects().after(500).says("hello").after(200).answers("Hi!")
    old = call.recording().replace(b'"reducer_version":"0.2.0"', b'"reducer_version":"0.0.9"', 2)
    old = re.sub(rb'"reason":"","schema(?=.*"to_phase":"SPEAKING")', b'"reason":"magic","schema', old, count=1)
    (folder / "call.jsonl").write_bytes(old)
    done = orch("replay", "call.jsonl", env=nowhere)
    assert done.exit_code == 1
    assert steady(done.stdout) == snapshot


def test_all_fixtures_replay_in_one_call(nowhere: dict[str, str]) -> None:
    """A folder stands for all that is in it."""
    done = orch("replay", str(ROOT / "fixtures"), env=nowhere)
    assert done.exit_code == 0, done.stderr
    count = len([*(ROOT / "fixtures").rglob("*.jsonl")])
    assert done.stdout.splitlines()[-1].startswith(f"{count} recordings: {count} equal; ")


def test_on_several_cores_the_verdicts_come_in_order(folder: Path, nowhere: dict[str, str]) -> None:
    """The large one first, though the small ones are done before it; one worker's or two, the same report."""
    calls = [
        Conversation.listening(f"s{i}").after(500).says("hello").after(200).answers("Hi!").speaks(chunks=30)
        for i in range(60)
    ]
    (folder / "1.jsonl").write_bytes(recorded(*calls))
    for index in (2, 3, 4):
        (folder / f"{index}.jsonl").write_bytes(calls[index].recording())
    files = [f"{index}.jsonl" for index in (1, 2, 3, 4)]
    two = orch_process("replay", "--jobs", "2", *files, env=nowhere)
    one = orch_process("replay", "--jobs", "1", *files, env=nowhere)
    assert two.returncode == 0, two.stderr
    assert (folder / "1.jsonl").stat().st_size > 1 << 20, "large enough to be worth a second process"
    assert steady(two.stdout) == steady(one.stdout)
    assert [line.split()[1] for line in two.stdout.splitlines()[:4]] == files


@pytest.mark.parametrize("inherited", [signal.SIG_DFL, signal.SIG_IGN])
def test_ctrl_c_leaves_a_summary_and_exit_code_130(
    folder: Path, nowhere: dict[str, str], inherited: signal.Handlers
) -> None:
    """In the middle of a stream that does not end; what was replayed so far is said, also where a script that started
    us in the background had SIGINT ignored.
    """
    recording = Conversation.listening().after(500).says("hello").after(200).answers("Hi!").speaks().recording()
    process = subprocess.Popen(
        [*ORCH, "replay", "-"],
        env=nowhere,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, inherited),
    )
    assert process.stdin is not None
    process.stdin.write(recording)
    process.stdin.flush()
    _until_it_waits(process.pid)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"interrupted" in stderr
    assert b"1 recordings: 1 interrupted" in stderr
    assert "⏸ -".encode() in stdout


def _until_it_waits(pid: int) -> None:
    """Until the process has read what there is, and waits for more of it."""
    deadline = time.monotonic() + 30
    while "pipe_read" not in Path(f"/proc/{pid}/wchan").read_text():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_a_terminal_sees_how_far_it_is(folder: Path, recording: bytes, nowhere: dict[str, str]) -> None:
    """The bar is on standard error and gone at the end; a file or a pipe never sees it."""
    (folder / "call.jsonl").write_bytes(recording)
    master, slave = pty.openpty()
    program = (
        "import cli.progress as p, cli.sources as s, sys; p.FIRST_S = p.EVERY_S = 0; s.BLOCK_BYTES = 1024; "
        "from cli.main import main; sys.argv = ['orch', 'replay', 'call.jsonl']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=nowhere, stdout=subprocess.PIPE, stderr=slave, timeout=30, check=False
    )
    os.close(slave)
    shown = os.read(master, 100_000).decode()
    os.close(master)
    assert done.returncode == 0
    assert re.search(r"\r\[#+ *\] +\d+%", shown)
    assert shown.endswith("\r")
    assert done.stdout.decode().startswith("✓ call.jsonl")


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
    folder: Path, nowhere: dict[str, str], what: str
) -> None:
    """The file and the line, no traceback."""
    data, words = GARBAGE[what]
    file = folder / "garbage.jsonl"
    file.write_bytes(data)
    done = orch("replay", str(file), env=nowhere)
    assert done.exit_code == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_worst_of_several_gives_the_exit_code(folder: Path, recording: bytes, nowhere: dict[str, str]) -> None:
    """A missing file is 2, and the good one is replayed all the same."""
    (folder / "call.jsonl").write_bytes(recording)
    done = orch("replay", "missing.jsonl", "call.jsonl", env=nowhere)
    assert done.exit_code == 2
    assert "missing.jsonl" in done.stderr
    assert "✓ call.jsonl" in done.stdout


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["empty"], ["no*.jsonl"], []])
def test_a_wrong_command_line_gives_exit_code_3(folder: Path, nowhere: dict[str, str], arguments: list[str]) -> None:
    """Words on standard error, nothing on standard output."""
    (folder / "empty").mkdir()
    done = orch_process("replay", *arguments, env=nowhere)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr


def test_replaying_a_file_loads_neither_redis_nor_the_runtime(
    folder: Path, recording: bytes, nowhere: dict[str, str]
) -> None:
    """A recording needs no service and nothing of it."""
    (folder / "call.jsonl").write_bytes(recording)
    program = (
        "import sys; from cli.replay import run; code = run(sources=['call.jsonl'], quiet=True); "
        "print(sorted({'redis', 'aiohttp', 'faststream', 'aiortc', 'orchestrator.runtime', 'orchestrator.gateway'} "
        "& sys.modules.keys())); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=nowhere, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_session_without_a_redis_is_an_error_in_words(nowhere: dict[str, str]) -> None:
    """A name without a suffix is a session id; when there is no Redis, that is said in one line."""
    done = orch("replay", "auto_session_1", env=nowhere)
    assert done.exit_code == 2
    assert done.stderr.startswith("✗ ")
    assert "Traceback" not in done.stderr
