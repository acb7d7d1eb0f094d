"""The commands beside a running `orch serve`, and what they say when something is wrong."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.cli.service import ORCH, Serve, environment, orch, orch_process


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def env(data_dir: Path) -> dict[str, str]:
    return environment(data_dir)


@pytest.fixture(scope="module")
def serve(env: dict[str, str]) -> Iterator[Serve]:
    """One service for all tests of this file."""
    service = Serve(env)
    yield service
    assert service.stop() == 0, service.stderr


@pytest.fixture(scope="module")
def session_id(serve: Serve, env: dict[str, str]) -> str:
    """A conversation in the terminal, held to its end."""
    done = orch_process("chat", "--url", serve.url, env=env, stdin="hello\nwhat are your opening hours\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2, done.stdout
    assert "the conversation is over (goodbye)" in done.stderr
    found = re.search(r"auto_session_\d+", done.stderr)
    assert found is not None
    return found[0]


def test_sessions_lists_what_is_here(session_id: str, env: dict[str, str]) -> None:
    """One line each: state, beginning, turns, duration, outcome, slowest turn, interruptions, failures."""
    done = orch("sessions", env=env)
    assert done.exit_code == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(session_id)]
    opened, lasted = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S+", r"\d+\.\d s"
    rest = r"goodbye\tturn [12] \d+ ms\t0 interruptions\t0 failures"
    assert re.fullmatch(rf"{session_id}\tended\t{opened}\t2 turns\t{lasted}\t{rest}", line), line


def test_doctor_says_what_is_kept_and_how_the_service_is_doing(session_id: str, env: dict[str, str], snapshot) -> None:
    """Facts on standard output, words on standard error; nothing is wrong, so the exit code is 0."""
    done = orch("doctor", env=env)
    assert done.exit_code == 0, done.stderr
    assert "64 shards, 64 of them owned by 1 nodes" in done.stdout
    assert re.sub(r"(version )\S+|\d+( live| events| dead)", r"\1…\2", done.output) == snapshot


def test_export_writes_a_recording_that_replays(session_id: str, env: dict[str, str], tmp_path: Path) -> None:
    """To a file and to standard output, byte for byte the same; replay of the file and of the session agree."""
    file = tmp_path / "call.jsonl"
    assert orch("export", session_id, "-o", str(file), env=env).exit_code == 0
    assert orch("export", session_id, env=env).stdout.encode() == file.read_bytes()
    assert orch("replay", session_id, str(file), env=env).exit_code == 0
    of_file = orch("show", str(file), env=env)
    of_session = orch("show", session_id, env=env)
    assert (of_file.exit_code, of_session.exit_code) == (0, 0), of_file.stderr
    assert of_file.stdout == of_session.stdout
    assert of_file.stdout.count("STT FINAL | text=") == 2


def test_tail_follows_the_golden_log(session_id: str, env: dict[str, str]) -> None:
    """From the session's beginning; the same lines as `orch show`."""
    expected = orch("show", session_id, env=env).stdout.splitlines()
    tail = subprocess.Popen([*ORCH, "tail", session_id], env=env, stdout=subprocess.PIPE, text=True)
    assert tail.stdout is not None
    lines = [tail.stdout.readline().rstrip("\n") for _ in expected]
    tail.terminate()
    tail.communicate(timeout=10)
    assert lines == expected


def test_tail_shows_only_what_is_asked_for(session_id: str, env: dict[str, str]) -> None:
    """By type and by command, and as JSON."""
    log = orch("show", session_id, "--json", env=env).stdout.splitlines()
    finals = [line for line in log if '"type":"STT_FINAL"' in line]
    command = [*ORCH, "tail", session_id, "--type", "STT_F*", "--json"]
    tail = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert tail.stdout is not None
    lines = [tail.stdout.readline().rstrip("\n") for _ in finals]
    tail.terminate()
    tail.communicate(timeout=10)
    assert lines == finals


def test_tail_of_all_sessions_begins_now(serve: Serve, session_id: str, env: dict[str, str]) -> None:
    """What other conversations say from now on; nothing of those before."""
    tail = subprocess.Popen([*ORCH, "tail"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert tail.stdout is not None
    assert tail.stderr is not None
    assert "following all sessions" in tail.stderr.readline()
    chat = subprocess.Popen(
        [*ORCH, "chat", "--url", serve.url],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert chat.stdin is not None
    try:
        chat.stdin.write("hello\n")
        chat.stdin.flush()
        line = tail.stdout.readline()
    finally:
        chat.stdin.close()
        chat.wait(timeout=30)
        tail.terminate()
        tail.communicate(timeout=10)
    assert session_id not in line
    assert re.match(r".*auto_session_\d+", line)


class Chat:
    """`orch chat` in a process of its own, at a keyboard that never closes."""

    def __init__(self, url: str, env: dict[str, str], program: Sequence[str] = ORCH) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [*program, "chat", "--url", url], env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.keyboard, self.answers, self.words = self.process.stdin, self.process.stdout, self.process.stderr
        assert "type and press return" in self.words.readline()

    def type(self, line: str) -> str:
        """The answer to a line."""
        self.keyboard.write(line + "\n")
        self.keyboard.flush()
        return self.answers.readline()

    def ended(self) -> tuple[int, str]:
        """It ends by itself: exit code and last words."""
        code = self.process.wait(timeout=30)
        words = self.words.read()
        for pipe in (self.keyboard, self.answers, self.words):
            pipe.close()
        return code, words


def test_a_conversation_survives_a_killed_service_and_no_client_hangs(tmp_path: Path) -> None:
    """kill -9 in mid-conversation: chat ends in words although somebody could still type, the next start adopts Redis
    and takes the session over, its log still replays. A service that is stopped does not wait for open chats.
    """
    env = environment(tmp_path)
    service = Serve(env)
    chat = Chat(service.url, env)
    assert chat.type("hello").strip()
    service.kill()
    code, words = chat.ended()
    assert code == 2
    assert "come back with: orch chat" in words
    again = Serve(env)
    session_id, live, *_ = orch("sessions", env=env).stdout.split()
    assert live == "live"
    assert orch("replay", session_id, env=env).exit_code == 0
    assert "SESSION_RESUMED" in orch("export", session_id, env=env).stdout
    chat = Chat(again.url, env)
    assert again.stop() == 0, "an open conversation must not hold the service up"
    code, words = chat.ended()
    assert code == 2
    assert "code 1013" in words


def test_chat_finds_its_conversation_again_after_a_restart_of_the_service(tmp_path: Path) -> None:
    """kill -9, and a start at the same address: it says so, and the next line is answered in the same session."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = environment(tmp_path)
    service = Serve(env, port)
    patient = "import cli.chat; cli.chat.PATIENCE_S = 600; from cli.main import main; main()"
    chat = Chat(service.url, env, [sys.executable, "-c", patient])
    assert chat.type("hello").strip()
    service.kill()
    assert "the connection is lost" in chat.words.readline()
    again = Serve(env, port)
    assert chat.type("when are you open").strip()
    assert len(orch("sessions", env=env).stdout.splitlines()) == 1
    chat.keyboard.close()
    assert chat.process.wait(timeout=30) == 0
    assert again.stop() == 0


@pytest.mark.parametrize("url", ["foo", "127.0.0.1:8080", "http://", "ftp://host", "http://u:s3cret@host:port"])
def test_chat_refuses_an_address_that_is_none(env: dict[str, str], url: str) -> None:
    """Exit code 3, and no password."""
    done = orch("chat", "--url", url, env=env)
    assert done.exit_code == 3
    assert re.match("✗ --url.* must be a URL", done.stderr)
    assert "s3cret" not in done.stderr


def test_tail_of_a_session_that_is_not_here_says_so(serve: Serve, env: dict[str, str]) -> None:
    """Instead of waiting for ever for what never comes."""
    done = orch("tail", "auto_session_404", env=env)
    assert done.exit_code == 2
    assert "'auto_session_404'" in done.stderr
    assert "orch sessions" in done.stderr


@pytest.mark.parametrize("command", [("export", "auto_session_404"), ("replay", "auto_session_404")])
def test_an_unknown_session_is_an_error_in_words(serve: Serve, env: dict[str, str], command: tuple[str, ...]) -> None:
    """It says where to find those there are."""
    done = orch(*command, env=env)
    assert done.exit_code == 2
    assert "orch sessions" in done.stderr
    assert "Traceback" not in done.stderr


def test_chat_without_a_service_says_how_to_start_one(env: dict[str, str]) -> None:
    """Exit code 2."""
    done = orch("chat", "--url", "http://127.0.0.1:9", env=env)
    assert done.exit_code == 2
    assert "start one with: orch serve" in done.stderr


def test_a_second_service_on_the_same_port_says_so(serve: Serve, env: dict[str, str]) -> None:
    """No traceback; the first one goes on."""
    done = orch("serve", "--port", serve.url.rpartition(":")[2], env=env)
    assert done.exit_code == 2
    assert "cannot start" in done.stderr
    assert "Traceback" not in done.stderr
    assert orch("sessions", env=env).exit_code == 0


@pytest.mark.parametrize("command", ["serve", "sessions", "tail", "export"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"ORCH_REDIS": "redis://x"}, "unknown setting ORCH_REDIS"),
        ({"ORCH_MAX_SESSIONS": "many"}, "ORCH_MAX_SESSIONS='many' is wrong"),
        ({"ORCH_REDIS_URL": "unix:///nonexistent/redis.sock"}, "nonexistent"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, command: str, setting: dict[str, str], words: str) -> None:
    """The variable and what is wrong with it, in one line, exit code 2."""
    arguments = [command, "auto_session_1"] if command == "export" else [command]
    arguments += ["--port", "0"] if command == "serve" else []
    done = orch(*arguments, env=environment(tmp_path, **setting))
    assert done.exit_code == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
