"""Every command with every kind of bad input: a documented exit code, words, no traceback, no secret."""

import gzip
import os
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from cli.exits import DIFFERS, MEANINGS, READER_GONE, UNUSABLE, USAGE
from cli.main import app
from tests.cli.service import ORCH, ROOT, environment, orch

SOUND = (ROOT / "fixtures" / "barge_in.jsonl").read_bytes()

RECORDING_COMMANDS = {
    "replay": ["replay", "FILE"],
    "replay --check": ["replay", "--check", "--keep-going", "FILE"],
    "replay --json": ["replay", "--json", "FILE"],
    "replay --until": ["replay", "--until", "41", "FILE"],
    "replay --step": ["replay", "--step", "FILE"],
    "replay --set": ["replay", "--set", "interruption.min_words=2", "FILE"],
    "replay --insert": ["replay", "--insert", "FILE", "fixtures/normal_flow.jsonl"],
    "show": ["show", "FILE"],
    "show --timeline": ["show", "--timeline", "FILE"],
    "show --detailed": ["show", "--detailed", "FILE"],
    "export": ["export", "FILE"],
    "export --format mermaid": ["export", "--format", "mermaid", "FILE"],
    "export --format otlp": ["export", "--format", "otlp-json", "FILE"],
    "diff": ["diff", "fixtures/normal_flow.jsonl", "FILE"],
    "verify": ["verify", "FILE"],
    "why": ["why", "FILE", "41"],
    "fork": ["fork", "FILE", "--at", "41", "--reason", "a test"],
    "import": ["import", "FILE", "--as-fixture", "new", "--folder", "FOLDER"],
}
"""Those that read a recording."""


def _loop(file: Path) -> None:
    file.symlink_to(file)


def _bytes(data: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(data)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "No such file"),
    "a folder": (Path.mkdir, "directory|folder|no recording"),
    "a link to itself": (_loop, "symbolic links"),
    "a read that fails": (lambda file: file.symlink_to("/proc/self/mem"), "Input/output error"),
    "empty": (_bytes(b""), "empty"),
    "blank": (_bytes(b"\n"), "empty|header"),
    "binary": (_bytes(bytes(range(1, 256)) * 10), "line 1"),
    "a long line": (_bytes(b"x" * (1 << 21)), "line 1"),
    "nested deeply": (_bytes(b"[" * 100_000), "line 1"),
    "gzip": (_bytes(gzip.compress(SOUND)), "gzip"),
    "UTF-16": (_bytes(SOUND.decode().encode("utf-16")), "UTF-16"),
    "UTF-16 without a mark": (_bytes(SOUND.decode().encode("utf-16-be")), "UTF-16BE"),
    "UTF-32": (_bytes(SOUND.decode().encode("utf-32")), "UTF-32"),
    "a database": (_bytes(b"SQLite format 3\x00" + bytes(100)), "SQLite"),
    "cut off": (_bytes(SOUND[:-100]), "middle of a line|line"),
    "bytes that are no text": (_bytes(SOUND.replace(b"opening", b"\xffpening", 1)), "line"),
    "JSON that is no event": (_bytes(b'{"format":"orch.recording"}\n[1]\n'), "line 2|line 1"),
}
FINE = {
    "cut off": ["replay --until", "replay --insert", "verify"],
    "bytes that are no text": ["export", "verify", "replay --until"],
    "JSON that is no event": ["export", "verify"],
}
"""What is not wrong: a place before the damage, a copy; `verify` lists damage on standard output."""
READ: dict[str, Callable[[Path], object]] = {
    "a byte order mark": _bytes(b"\xef\xbb\xbf" + SOUND),
    "line ends of Windows": _bytes(SOUND.replace(b"\n", b"\r\n")),
    "both": _bytes(b"\xef\xbb\xbf" + SOUND.replace(b"\n", b"\r\n")),
}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def said(done: Result, code: int, about: str = "") -> str:
    """What was said of a mistake: one line with content on standard error, and nothing else."""
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    words = done.stderr
    assert len(words.splitlines()) == 1, words
    assert re.match(r"✗ .{15,}", words), words
    assert not re.search(r"\(\)|[:(]\s*$|\[Errno", words), words
    assert re.search(about, words), words
    return words


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_recording_is_refused_by_every_command(tmp_path: Path, kind: str) -> None:
    """With what it is, and nothing on standard output."""
    make, about = REFUSED[kind]
    file, env = tmp_path / "call.jsonl", environment(tmp_path)
    make(file)
    for command, arguments in RECORDING_COMMANDS.items():
        filled = [{"FILE": str(file), "FOLDER": str(tmp_path / "new")}.get(one, one) for one in arguments]
        if command in FINE.get(kind, ()):
            continue
        done = orch(*filled, env=env)
        is_expanded = kind == "a folder" and "FILE" in arguments[1:] and command.split()[0] in ("replay", "verify")
        is_useless = command == "replay --insert" and kind in ("empty", "blank")
        code = USAGE if is_useless or (is_expanded and command != "replay --insert") else UNUSABLE
        if command == "replay --json" and code == UNUSABLE:
            assert (done.exit_code, '"outcome": "unreadable"' in done.stdout, done.stderr) == (code, True, "")
            continue
        assert not done.stdout, command
        words = said(done, code, about if command != "replay --insert" else "")
        assert str(file) in words, command
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", READ)
def test_a_recording_that_an_editor_or_git_has_changed_is_read(tmp_path: Path, kind: str) -> None:
    """The same as the file before."""
    file, env = tmp_path / "call.jsonl", environment(tmp_path)
    READ[kind](file)
    assert orch("replay", "--check", str(file), env=env).exit_code == 0
    assert orch("export", str(file), env=env).stdout == orch("export", "fixtures/barge_in.jsonl", env=env).stdout
    assert orch("diff", str(file), "fixtures/barge_in.jsonl", env=env).exit_code == 0
    events = tmp_path / "events.jsonl"
    events.write_bytes(b'\xef\xbb\xbf{"type":"STT_FINAL","text":"never mind","at_us":4700000,"via":"text"}\r\n')
    assert orch("replay", "--insert", str(events), str(file), env=env).exit_code == 0


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", [kind for kind in REFUSED if kind not in ("empty", "blank")])  # the default policy
def test_a_policy_file_that_cannot_be_read_is_said(tmp_path: Path, kind: str) -> None:
    """For `replay --policy` and for the service, which names the setting."""
    file = tmp_path / "policy.yaml"
    make, _ = REFUSED[kind]
    make(file)
    done = orch("replay", "--policy", str(file), "fixtures/barge_in.jsonl", env=environment(tmp_path))
    assert done.exit_code == USAGE, done.output
    env = environment(tmp_path, ORCH_POLICY_FILE=str(file))
    served = orch("serve", "--port", "0", env=env)
    assert served.exit_code == UNUSABLE, served.output
    assert "ORCH_POLICY_FILE" in served.stderr
    for one in (done, served):
        assert str(file) in one.stderr
        assert "Traceback" not in one.stderr


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "fixtures/barge_in.jsonl", "-o", "FOLDER"],
        ["export", "fixtures/barge_in.jsonl", "-o", "FOLDER/no/call.jsonl"],
        ["export", "fixtures/barge_in.jsonl", "-o", "/dev/full"],
        ["fork", "fixtures/barge_in.jsonl", "--at", "41", "--reason", "a test", "-o", "FOLDER"],
        ["import", "fixtures/barge_in.jsonl", "--as-fixture", "new", "--folder", "FOLDER/file"],
    ],
)
def test_an_output_that_cannot_be_written_is_said(tmp_path: Path, arguments: list[str]) -> None:
    """A folder, one that is missing, a full disk, a file where a folder is needed."""
    (tmp_path / "file").write_text("")
    done = orch(*[one.replace("FOLDER", str(tmp_path)) for one in arguments], env=environment(tmp_path))
    said(done, UNUSABLE, arguments[-1].replace("FOLDER", ""))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("command", [["show", "-"], ["replay", "--step", "fixtures/barge_in.jsonl"]], ids=" ".join)
def test_an_input_that_cannot_be_read_is_said(tmp_path: Path, command: list[str]) -> None:
    """Of standard input: its error is no error of standard output."""
    with Path("/proc/self/mem").open("rb") as unreadable:
        done = subprocess.run(
            [*ORCH, *command], env=environment(tmp_path), stdin=unreadable, capture_output=True, check=False
        )
    assert done.returncode == UNUSABLE
    assert done.stderr.decode().splitlines()[-1].endswith("✗ standard input: Input/output error")
    assert b"Traceback" not in done.stderr


OUT_OF_RANGE = {
    "console": (["console", "fixtures", "--port", "70000"], "'--port': Input should be less than or equal to 65535"),
    "console, negative": (["console", "fixtures", "--port", "-5"], "'--port': Input should be greater than or equal"),
    "serve": (["serve", "--port", "-5"], "'--port': Input should be greater than or equal to 0"),
    "serve, minus one": (["serve", "--port", "-1"], "'--port': Input should be greater than or equal to 0"),
    "serve, too high": (["serve", "--port", "70000"], "'--port': Input should be less than or equal to 65535"),
    "replay": (["replay", "x", "--jobs", "-1"], "'--jobs' / '-j': Input should be greater than or equal to 0"),
    "rerun": (["rerun", "x", "--agent", "a", "--late-ms", "-1"], "'--late-ms': Input should be greater than or equal"),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("what", OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused(tmp_path: Path, what: str) -> None:
    """With the range, before anything starts."""
    arguments, words = OUT_OF_RANGE[what]
    done = orch(*arguments, env=environment(tmp_path))
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert words in done.stderr


def test_an_empty_address_is_refused(tmp_path: Path) -> None:
    """The address of a service for `orch chat`, such as that of a variable that is not set."""
    said(orch("chat", "--url", "", env=environment(tmp_path)), USAGE, "--url is empty: give the address")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command", [["show"], ["replay"], ["verify"], ["show", "--json"], ["show", "--timeline"]])
def test_an_encoding_that_lacks_a_character_costs_no_output(tmp_path: Path, encoding: str, command: list[str]) -> None:
    """It is written as in JSON: a golden log can be read, JSON can be parsed."""
    file = tmp_path / "call.jsonl"
    file.write_bytes(SOUND.replace(b"opening", "öffning 🕗".encode()))
    env = environment(tmp_path, PYTHONIOENCODING=encoding)
    arguments = [*ORCH, *command, str(file)]
    done = subprocess.run(arguments, env=env, capture_output=True, timeout=60, check=False)
    plain = subprocess.run(arguments, env=env | {"PYTHONIOENCODING": "utf-8"}, capture_output=True, check=False)
    assert done.returncode == plain.returncode, done.stderr
    assert b"Traceback" not in done.stderr
    escaped = re.compile(r"((?:\\u[0-9a-f]{4})+)")
    unescaped = escaped.sub(lambda found: found[0].encode().decode("unicode_escape"), done.stdout.decode(encoding))
    again = unescaped.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    steady = re.compile(r"[\d.]+ ms")
    assert steady.sub("", again) == steady.sub("", plain.stdout.decode())


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "arguments",
    [
        ["why", "fixtures/normal_flow.jsonl", "PlayFiller[0]"],
        ["why", "fixtures/normal_flow.jsonl", "Speak[0]"],
        ["replay", "fixtures/normal_flow.jsonl", "--until", "Speak[00]"],
        ["fork", "fixtures/normal_flow.jsonl", "--at", "Speak[0]", "--reason", "a test"],
    ],
)
def test_a_place_with_the_index_0_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    """Whether or not the recording has such an event."""
    said(orch(*arguments, env=environment(tmp_path)), USAGE, r"\[00?\]'.*indices begin with 1")


CLOSED = [
    ["show", "fixtures/normal_flow.jsonl"],
    ["replay", "fixtures/normal_flow.jsonl"],
    ["replay", "--step", "fixtures/normal_flow.jsonl"],
    ["chat", "--url", "http://127.0.0.1:9"],
    ["replay", "-"],
]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("stream", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", CLOSED, ids=" ".join)
def test_a_closed_stream_counts_as_nothing(tmp_path: Path, command: list[str], stream: str) -> None:
    """The same exit code as with an open one, and no traceback."""
    env = environment(tmp_path, ORCH_REDIS_URL="redis://127.0.0.1:1")
    shell = ["bash", "-c", f'"$@" {stream}', "-", *ORCH, *command]
    done = subprocess.run(shell, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    expected = UNUSABLE if command[0] == "chat" or command[-1] == "-" else 0
    assert done.returncode == expected, done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "command",
    [["show", "fixtures/real_call.jsonl"], ["events", "--schema"], ["export", "fixtures/real_call.jsonl"], ["--help"]],
    ids=" ".join,
)
def test_an_output_that_takes_no_more_is_said_or_left(tmp_path: Path, command: list[str]) -> None:
    """A full disk is an error in words; a reader that has seen enough is none."""
    env = environment(tmp_path)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*ORCH, *command], env=env, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == UNUSABLE
    assert done.stderr.decode() == "✗ standard output cannot be written: No space left on device\n"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*ORCH, *command], env=env, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (READER_GONE, b"")


@pytest.mark.usefixtures("here")
def test_an_output_that_is_written_in_part_is_an_error(tmp_path: Path) -> None:
    """A disk with room for the first 8 KiB: no recording without its end passes for a whole one."""
    env, file = environment(tmp_path, PYTHONUNBUFFERED="1"), tmp_path / "output"
    shell = ["bash", "-c", f'ulimit -f 8; "$@" > {file}', "-", *ORCH, "export", "fixtures/real_call.jsonl"]
    done = subprocess.run(shell, env=env, capture_output=True, timeout=60, check=False)
    assert (file.stat().st_size, done.returncode) == (8 * 1024, UNUSABLE)
    assert done.stderr.decode() == "✗ standard output cannot be written: File too large\n"


REDIS_COMMANDS = [
    ["sessions"],
    ["tail"],
    ["doctor"],
    ["export", "auto_session_1"],
    ["replay", "--until", "41", "auto_session_1"],
    ["why", "auto_session_1", "41"],
    ["archive"],
    ["purge", "--older-than", "1d", "--yes"],
    ["projections", "status"],
    ["projections", "rebuild", "history"],
]


@pytest.fixture
def silent_port() -> "pytest.FixtureRequest":
    """A server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("command", REDIS_COMMANDS, ids=" ".join)
def test_a_redis_that_is_not_there_is_said(tmp_path: Path, command: list[str]) -> None:
    """Refused, without a socket, a cluster that is none, and TLS that nobody speaks."""
    for url in ("redis://:s3cret@127.0.0.1:1/0", "unix:///nonexistent/r.sock", "redis+cluster://:s3cret@127.0.0.1:1"):
        words = said(orch(*command, env=environment(tmp_path, ORCH_REDIS_URL=url)), UNUSABLE, "Redis")
        assert "s3cret" not in words


def test_a_redis_that_does_not_answer_is_said(
    tmp_path: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command does not wait for ever."""
    monkeypatch.setattr("cli.store.PATIENCE_S", 0.2)
    env = environment(tmp_path, ORCH_REDIS_URL=f"redis://:s3cret@127.0.0.1:{silent_port}")
    for command in REDIS_COMMANDS:
        said(orch(*command, env=env), UNUSABLE, "does not answer within 0.2 s")


URL_SETTINGS = ["REDIS_URL", "SQL_URL", "INTENT_URL", "ANSWER_URL", "TTS_URL", "ADDRESS", "ALLOWED_ORIGINS"]
MALFORMED = [
    "foo",
    "//user:s3cret@host",
    "user:s3cret@host:1234",
    "SCHEME://user:s3@cret/x@host:1234/db",
    "SCHEME://user:s3?cret@host:1234/db",
    "SCHEME://user:s3#cret@host:1234/db",
    "SCHEME://user:s3cret@host:s3port/db",
    "SCHEME://user:s3cret@host:99999/db",
    "SCHEME://user:[s3cret@host/db",
    "SCHEME://:s3cret",
    "SCHEME://user:s3cret@",
    "SCHEME://user:s3cret@ho st/db",
    "SCHEME://user:s3 cret@host/db",
    "nonsense://user:s3cret@host/db",
]


@pytest.mark.parametrize("setting", URL_SETTINGS)
@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_url_is_named_and_never_quoted(tmp_path: Path, setting: str, url: str) -> None:
    """No part of what may be a password; the variable, and what may be there."""
    url = url.replace("SCHEME", {"REDIS_URL": "redis", "SQL_URL": "postgresql"}.get(setting, "http"))
    env = environment(tmp_path, **{f"ORCH_{setting}": url})
    for command in (["serve", "--port", "0"], ["sessions"], ["doctor"]):
        words = said(orch(*command, env=env), UNUSABLE, f"ORCH_{setting}")
        assert not re.search("s3|cret|port/db", words), words
        assert ("'foo'" in words) == (url == "foo")


def test_a_database_that_is_not_there_is_said(tmp_path: Path) -> None:
    """What Redis has is listed; the password is in no message."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    env = environment(tmp_path, ORCH_SQL_URL=f"postgresql://user:s3cret@127.0.0.1:{port}/db")
    for command in (["sessions"], ["projections", "status"], ["archive"]):
        words = said(orch(*command, env=env), UNUSABLE, "history at postgresql")
        assert "s3cret" not in words


def test_a_url_with_an_option_that_is_unknown_is_said(tmp_path: Path) -> None:
    """The option, and nothing else of the URL."""
    for option in ("no_such=1", "db=x", "decode_responses=true"):
        env = environment(tmp_path, ORCH_REDIS_URL=f"redis://:s3cret@127.0.0.1:1/0?{option}")
        for command in (["sessions"], ["serve", "--port", "0"]):
            done = orch(*command, env=env)
            assert done.exit_code == UNUSABLE, done.output
            assert option.partition("=")[0] in done.stderr
            assert "s3cret" not in done.stderr
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ""])
def test_a_port_in_use_is_said_at_once(tmp_path: Path, host: str) -> None:
    """Before Redis or a service is started: the data directory stays empty."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = orch("serve", "--host", host, "--port", str(port), env=environment(tmp_path / "data"))
    words = said(done, UNUSABLE, f"port {port}")
    assert "is another orch running" in words
    assert "--port 0" in words
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", [["sessions"], ["serve", "--port", "0"], ["doctor"]])
def test_a_data_directory_that_is_a_file_is_said(tmp_path: Path, command: list[str]) -> None:
    """With its name."""
    (tmp_path / "data").write_text("")
    assert str(tmp_path / "data") in said(orch(*command, env=environment(tmp_path / "data")), UNUSABLE)


def test_a_fault_of_ours_has_a_code_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never 1, which means that something diverged."""

    def fails(**_: object) -> int:
        raise ZeroDivisionError("a test")

    monkeypatch.setattr("cli.show.run", lambda *_, **__: fails())
    done = orch("show", "call.jsonl", env=environment(tmp_path))
    assert done.exit_code == 70
    assert "Traceback" in done.stderr
    assert "a fault in orch: ZeroDivisionError" in done.stderr


def test_the_documentation_names_every_exit_code() -> None:
    """In docs/commands; and no help of a command says 1 but for a difference."""
    page = (ROOT / "docs" / "commands" / "README.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == [*MEANINGS]
    for command in app.registered_commands:
        words = command.callback.__doc__ or ""
        if f"code {DIFFERS}" in words:
            assert command.callback.__name__ in ("diff", "replay")
