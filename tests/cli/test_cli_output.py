"""Standard output and standard error in trouble: whatever becomes of their readers, calls go on."""

import asyncio
import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator import child_process, line_writer, safe_log
from orchestrator.line_writer import MOST_WAITING, LineWriter, write_to
from tests.cli.service import ORCH, environment, orch_process

PATIENCE_S = 30.0
TURNS = 40
"""What their golden log says does not fit into a pipe of one page."""
Stream = tuple[int, Callable[[], None]]
"""A descriptor for the service, and what to do once it runs."""


def until(what: Callable[[], bool], words: str) -> None:
    """Wait for something that nobody announces."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, f"{words} never came"
        time.sleep(0.02)


def small_pipe() -> tuple[int, int]:
    """A pipe that holds one page."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    return reader, writer


def full(descriptor: int) -> None:
    """Fill a pipe to the last byte."""
    os.set_blocking(descriptor, False)
    try:
        while os.write(descriptor, b"x"):
            pass
    except BlockingIOError:
        os.set_blocking(descriptor, True)


def nobody_reads() -> Stream:
    """The reader is there, and stands still."""
    _, writer = small_pipe()
    return writer, lambda: None


def is_full_already() -> Stream:
    """The reader has stood still for long."""
    _, writer = small_pipe()
    full(writer)
    return writer, lambda: None


def reader_goes() -> Stream:
    """The reader goes while the service runs."""
    reader, writer = small_pipe()
    return writer, lambda: os.close(reader)


def disk_is_full() -> Stream:
    """Every write fails."""
    return os.open("/dev/full", os.O_WRONLY), lambda: None


def is_not_blocking() -> Stream:
    """Whoever started the service made its end of the pipe non-blocking."""
    _, writer = small_pipe()
    os.set_blocking(writer, False)
    return writer, lambda: None


TROUBLES = [nobody_reads, is_full_already, reader_goes, disk_is_full, is_not_blocking]


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return b'"ready": true' in answer.read()
    except OSError:
        return False


@contextmanager
def serving(folder: Path, **streams: Any) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """An `orch serve` with these streams, as soon as it takes calls."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = environment(folder / "data", ORCH_PORT=str(port))
    process = subprocess.Popen([*ORCH, "serve"], env=env, stdin=subprocess.DEVNULL, **streams)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or ready(url), "a service that is ready")
        assert process.poll() is None
        yield process, url
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def talk(url: str, folder: Path) -> None:
    """A conversation in which every line is answered, with /healthz asked beside it."""
    over, healthy = threading.Event(), []

    def ask() -> None:
        while not over.wait(0.05):
            with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:
                healthy.append(answer.status)

    asking = threading.Thread(target=ask)
    asking.start()
    lines = "when are you open\n" * TURNS
    done = orch_process("chat", "--url", url, env=environment(folder / "data"), stdin=lines)
    over.set()
    asking.join()
    assert len(done.stdout.splitlines()) == TURNS, done.stderr
    assert set(healthy) == {200}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_calls_go_on_when_the_golden_log_cannot_be_printed(trouble: Callable[[], Stream], tmp_path: Path) -> None:
    """One warning when it begins, one count at the end, no traceback; the service stops as ever."""
    stdout, now = trouble()
    with (tmp_path / "err").open("wb") as stderr, serving(tmp_path, stdout=stdout, stderr=stderr) as (process, url):
        os.close(stdout)
        now()
        talk(url, tmp_path)
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            counted = re.search(rb"^orch_output_lost_total\S* (\S+)", answer.read(), re.MULTILINE)
        assert counted is not None
        assert trouble not in (reader_goes, disk_is_full) or float(counted[1]) > 0
    said = (tmp_path / "err").read_text()
    assert process.returncode == 0, said
    assert len(re.findall("the golden log cannot be written", said)) == 1, said
    assert re.search(r"the golden log: at the end; \d+ lines were dropped", said), said
    assert "Traceback" not in said


@pytest.mark.parametrize("trouble", TROUBLES)
def test_calls_go_on_when_the_log_cannot_be_written(trouble: Callable[[], Stream], tmp_path: Path) -> None:
    """Nothing can be said then, so nothing is; the golden log is complete."""
    stderr, now = trouble()
    with (tmp_path / "out").open("wb") as stdout, serving(tmp_path, stdout=stdout, stderr=stderr) as (process, url):
        os.close(stderr)
        now()
        talk(url, tmp_path)
    assert process.returncode == 0
    golden = (tmp_path / "out").read_text()
    assert golden.count("Processing complete") == TURNS
    assert "Traceback" not in golden


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_a_service_without_standard_streams_takes_calls(closed: tuple[int, ...], tmp_path: Path) -> None:
    """As some daemons start it: no connection gets the number of a stream that something is printed to."""

    def close() -> None:
        for number in closed:
            os.close(number)

    with (
        (tmp_path / "out").open("wb") as stdout,
        (tmp_path / "err").open("wb") as stderr,
        serving(tmp_path, stdout=stdout, stderr=stderr, preexec_fn=close) as (process, url),
    ):
        talk(url, tmp_path)
    assert process.returncode == 0
    out, err = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
    assert out.count("Processing complete") == (0 if 1 in closed else TURNS)
    assert err.count("standard output is closed") == (closed == (1,))
    assert "Traceback" not in err


def ignored() -> None:
    """As a shell script starts `command &`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def blocked() -> None:
    """As some supervisors start their children."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))


@pytest.mark.parametrize("started", [ignored, blocked])
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_service_whoever_started_it(
    started: Callable[[], None], by: signal.Signals, tmp_path: Path
) -> None:
    """In the background of a script, or under a supervisor that blocks signals."""
    with (
        (tmp_path / "err").open("wb") as stderr,
        serving(tmp_path, stdout=stderr, stderr=stderr, preexec_fn=started) as (process, _),
    ):
        process.send_signal(by)
        assert process.wait(PATIENCE_S) == 0, (tmp_path / "err").read_text()


@pytest.mark.parametrize("started", [ignored, blocked])
def test_a_signal_ends_a_command_whoever_started_it(started: Callable[[], None], tmp_path: Path) -> None:
    """`orch replay -` waits for its input; Ctrl-C is Ctrl-C."""
    process = subprocess.Popen(
        [*ORCH, "replay", "-"],
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=started,
    )
    status = Path(f"/proc/{process.pid}/status")

    def listens() -> bool:
        """Whether Python's own handler is there: SIGINT is caught, neither ignored nor blocked."""
        masks = dict(re.findall(r"Sig(Blk|Ign|Cgt):\s+(\w+)", status.read_text()))
        caught = int(masks["Cgt"], 16) & ~int(masks["Blk"], 16) & ~int(masks["Ign"], 16)
        return bool(caught & 1 << (signal.SIGINT - 1))

    until(listens, "a command that listens to signals")
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(PATIENCE_S) in (130, -signal.SIGINT)
    finally:
        process.kill()
        process.communicate()


async def test_what_a_process_of_ours_says_is_logged_and_never_holds_it_up(caplog: pytest.LogCaptureFixture) -> None:
    """It does not write to our standard error, which may be read by nobody."""
    process = await child_process.spawn("tests.cli.noisy_process")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        assert await process.stdout.readline() == b"done\n"
        await child_process.end(process, "it", PATIENCE_S)
        while not caplog.messages or "the last words" not in caplog.messages[-1]:  # noqa: ASYNC110 - a log tells nobody
            await asyncio.sleep(0.01)
    said = [line.removeprefix("tests.cli.noisy_process: ") for one in caplog.messages for line in one.split("\n")]
    assert [line.split(" ")[0] for line in said] == [*map(str, range(2_000)), "the"]
    assert max(map(len, caplog.messages)) < 2 * child_process.READ_BYTES


async def test_the_traceback_of_a_process_of_ours_is_logged_whole(caplog: pytest.LogCaptureFixture) -> None:
    """Its last line says what is wrong; the log holds back repeated records, and the lines are alike to it."""
    process = await child_process.spawn("tests.cli.failing_process")
    safe_log.guard_our_loggers()
    async with asyncio.timeout(PATIENCE_S):
        await process.wait()
        while "what is wrong" not in caplog.text:  # noqa: ASYNC110 - a log tells nobody
            await asyncio.sleep(0.01)
    assert caplog.text.count("deeper") >= 80


# The writer alone.


def test_a_write_that_hangs_is_said_before_anything_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as it has taken too long, and only once."""
    monkeypatch.setattr(line_writer, "STUCK_S", 0.0)
    go_on, told = threading.Event(), []
    writer = LineWriter(lambda line: bool(go_on.wait()), "it", told.append)

    def is_said() -> bool:
        writer.put("line")
        return bool(told)

    until(is_said, "a warning")
    is_said()
    go_on.set()
    writer.close()
    assert [words.partition(";")[0] for words in told] == [
        "it cannot be written (nobody reads it)",
        "it: it can be written again",
    ]


def test_lines_are_written_in_their_order() -> None:
    """All of them, before close returns."""
    written: list[str] = []
    writer = LineWriter(written.append, "it", pytest.fail)
    for number in range(1_000):
        writer.put(str(number))
    writer.close()
    assert written == [str(number) for number in range(1_000)]
    assert not writer.lost


def test_what_is_too_much_is_counted_and_said() -> None:
    """A writer that hangs, and goes on again: what was queued is written, what was dropped is counted."""
    go_on, written, told = threading.Event(), [], []

    def write(line: str) -> None:
        go_on.wait()
        written.append(line)

    writer = LineWriter(write, "it", told.append)
    for number in range(MOST_WAITING + 10):
        writer.put(str(number))
    lost = writer.lost
    assert 9 <= lost <= 10
    writer.put("more")
    assert told == ["it cannot be written (nobody reads it); lines are dropped, and calls go on"]
    go_on.set()
    until(lambda: len(told) == 2, "the end of the trouble")
    writer.close()
    assert told[1] == f"it: it can be written again; {lost + 1} lines were dropped"
    assert written == [str(number) for number in range(MOST_WAITING + 10 - lost)]


def test_a_writer_that_fails_is_tried_again() -> None:
    """A disk that has room again: one word when it begins, one when it is over."""
    troubles, told, written = [errno.ENOSPC] * 3, [], []

    def write(line: str) -> None:
        if troubles:
            raise OSError(troubles.pop(), "no room")
        written.append(line)

    writer = LineWriter(write, "it", told.append)
    for number in range(5):
        writer.put(str(number))
    writer.close()
    assert written == ["3", "4"]
    assert told == [
        f"it cannot be written ([Errno {errno.ENOSPC}] no room); lines are dropped, and calls go on",
        "it: it can be written again; 3 lines were dropped",
    ]


def test_a_line_leaves_whole_and_in_any_encoding() -> None:
    """Through a pipe that takes little at a time, and to a reader who knows ASCII only."""
    reader, descriptor = small_pipe()
    os.set_blocking(descriptor, False)
    writer = LineWriter(write_to(descriptor, "ascii"), "it", pytest.fail)
    writer.put("🔵" + "x" * 20_000)
    read = b""
    while not read.endswith(b"\n"):
        read += os.read(reader, 1_000)
    writer.close()
    assert read == b"\\U0001f535" + b"x" * 20_000 + b"\n"
