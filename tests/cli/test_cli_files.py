"""Commands that read and write recordings: verify, export, diff, fork, events."""

import json
import re
from pathlib import Path

import pytest

from events.codec import DERIVED, INPUTS, decode, encode
from events.envelope import Input
from events.inputs import SttFinal
from events.recording import Header, dump, parse, sealed
from orchestrator.replay.redact import redacted
from orchestrator.replay.replay import replay
from projections.golden_log import golden
from tests.cli.service import ROOT, environment, orch

FILES = sorted((ROOT / "fixtures").rglob("*.jsonl"))
BARGE_IN = "fixtures/barge_in.jsonl"


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Where the fixtures are, and no Redis to be had."""
    monkeypatch.chdir(ROOT)
    return environment(tmp_path, ORCH_REDIS_URL="unix:///nonexistent/redis.sock")


def test_every_fixture_is_sound(env: dict[str, str]) -> None:
    """Versions, hashes, invariants."""
    done = orch("verify", "fixtures", env=env)
    assert done.exit_code == 0, "\n".join(line for line in done.stdout.splitlines() if line[0] != "✓")
    assert len(done.stdout.splitlines()) == len(FILES)


DAMAGE = {
    "a line is missing": lambda lines: lines[:20] + lines[21:],
    "a line is there twice": lambda lines: [*lines[:20], lines[19], *lines[20:]],
    "a text was edited": lambda lines: [line.replace(b'"text":"stop"', b'"text":"stay"') for line in lines],
    "an unknown type": lambda lines: [*lines[:8], lines[8].replace(b"COMMAND_ISSUED", b"WISH_ISSUED"), *lines[9:]],
    "not JSON": lambda lines: [*lines[:8], b"{", *lines[9:]],
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_placed(what: str, tmp_path: Path, env: dict[str, str], snapshot) -> None:
    """Exit code 2; each problem with its line or version. The checksum of an export notices whatever it is."""
    file = tmp_path / "call.jsonl"
    assert orch("export", BARGE_IN, "-o", str(file), env=env).exit_code == 0
    assert orch("verify", str(file), env=env).exit_code == 0
    file.write_bytes(b"".join(line + b"\n" for line in DAMAGE[what](file.read_bytes().splitlines())))
    done = orch("verify", str(file), env=env)
    assert done.exit_code == 2
    assert "the checksum is " in done.stdout
    assert re.sub(r"\S*/call\.jsonl|[0-9a-f]{16}", "…", done.stdout) == snapshot


@pytest.mark.parametrize(
    ("cut", "end"),
    [(b'{"type":"STT_', "the file ends in the middle of a line"), (b"", "the last line has no line end")],
)
def test_all_places_of_a_damaged_file_are_named_together(
    cut: bytes, end: str, tmp_path: Path, env: dict[str, str]
) -> None:
    """A line that is no event, an empty line, and the end of the file."""
    lines = (ROOT / BARGE_IN).read_bytes().splitlines()
    lines[8], lines[20] = b"{", b""
    file = tmp_path / "call.jsonl"
    file.write_bytes(b"\n".join([*lines, cut] if cut else lines))
    done = orch("verify", str(file), env=env)
    assert (done.exit_code, done.stderr) == (2, "")
    places = re.findall(r"line (\d+): (?:ORCH1006 )?(.*?)(?:;|$)", done.stdout, re.MULTILINE)
    assert [number for number, _ in places] == ["9", "21", str(len(lines) + bool(cut))]
    assert [places[1][1], places[2][1]] == ["empty line", end]


@pytest.mark.parametrize(("version", "is_newer"), [("0.10.0", True), ("1", True), ("0.1.9", False), ("", False)])
@pytest.mark.parametrize("command", ["replay", "verify", "show"])
def test_a_file_of_a_newer_orch_is_named_as_such(
    command: str, version: str, is_newer: bool, tmp_path: Path, env: dict[str, str]
) -> None:
    """Where it has an event that this version does not know."""
    file = tmp_path / "call.jsonl"
    event = b'{"type":"WISH_GRANTED"}'
    file.write_bytes(dump(Header(reducer_version=version), [*(ROOT / BARGE_IN).read_bytes().splitlines()[1:], event]))
    done = orch(command, str(file), env=env)
    assert done.exit_code == 2
    assert "unknown event type 'WISH_GRANTED'" in done.output
    assert (f"; a newer orch, with reducer {version}, wrote it\n" in done.output) == is_newer


@pytest.mark.parametrize("how", ["default", "hash"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_redacted_recording_holds_no_words_and_still_replays(file: Path, how: str) -> None:
    """The same decisions at the same events; what was said cannot be read."""
    log = [*parse(file.read_bytes(), file.name).events()]
    hidden = [*redacted(log, how)]
    assert replay(parse(_file(hidden), "hidden")).divergence is None
    for old, new in zip(log, hidden, strict=True):
        if isinstance(old, SttFinal) and len(old.text) > 12:
            assert old.text != new.text
            assert len(old.text.split()) == len(new.text.split())


def _file(events: list) -> bytes:
    return b'{"format":"orch.recording"}\n' + b"".join(encode(event) + b"\n" for event in events)


def test_no_canary_survives_a_redaction(tmp_path: Path, env: dict[str, str]) -> None:
    """Whatever a user or a service said, in any field."""
    data = (ROOT / BARGE_IN).read_bytes()
    words = set(re.findall(rb"[A-Za-z]{4,}", b" ".join(re.findall(rb'"(?:text|answer)":"(.*?)"', data))))
    file = tmp_path / "hidden.jsonl"
    assert orch("export", BARGE_IN, "--redact", "default", "-o", str(file), env=env).exit_code == 0
    hidden = b" ".join(re.findall(rb'"(?:text|answer|heard_text)":"(.*?)"', file.read_bytes()))
    assert [word for word in words if word in hidden] == [b"right"], "a backchannel: the policy looks for it"
    assert orch("replay", str(file), env=env).exit_code == 0


def test_a_diagram_is_written(env: dict[str, str], snapshot) -> None:
    """Mermaid, for an issue or a document."""
    assert orch("export", BARGE_IN, "--format", "mermaid", env=env).stdout == snapshot


def test_a_diagram_names_the_tools(env: dict[str, str]) -> None:
    """A call and its command, and the model of a response; a result is cut like any text."""
    done = orch("export", "fixtures/failures/tool_in_an_answer.jsonl", "--format", "mermaid", env=env)
    arrows = [line.strip() for line in done.stdout.splitlines() if re.search("TOOL|Tool|MODEL", line)]
    assert arrows == [
        "Services->>Session: MODEL_RESPONDED local",
        "Services->>Session: TOOL_CALLED create_reservation",
        "Session->>Services: RunTool create_reservation",
        "Services->>Session: TOOL_RETURNED   order  1",
    ]


def test_two_recordings_are_compared(env: dict[str, str], snapshot) -> None:
    """Side by side; the same conversation under another name is the same."""
    done = orch("diff", BARGE_IN, "fixtures/normal_flow.jsonl", env=env)
    assert done.exit_code == 1
    assert done.stdout == snapshot
    assert orch("diff", BARGE_IN, BARGE_IN, env=env).exit_code == 0


def test_two_calls_that_differ_in_times_alone_are_no_difference(tmp_path: Path, env: dict[str, str]) -> None:
    """The lines are marked, for the reader."""
    file = tmp_path / "slower.jsonl"
    file.write_bytes((ROOT / BARGE_IN).read_bytes().replace(b'"elapsed_us":300000', b'"elapsed_us":301000'))
    done = orch("diff", BARGE_IN, str(file), env=env)
    assert "Processing complete in 301ms" in done.stdout
    assert done.exit_code == 0


@pytest.mark.parametrize(
    ("recording", "old", "new", "shown"),
    [
        ("failures/barge_in_over_the_filler.jsonl", "One moment.", "Two minutes.", "[-One moment.-] {+Two minutes.+}"),
        ("normal_flow.jsonl", "How can I help?", "What now?", "    Hi! [-How can I help?-] {+What now?+}"),
        ("failures/tool_in_an_answer.jsonl", r"{\"order\":1", r"{\"order\":2", '→ [-{"order":1}-] {+{"order":2}+} '),
    ],
)
def test_other_words_and_tool_calls_of_the_agent_are_a_difference(
    recording: str, old: str, new: str, shown: str, tmp_path: Path, env: dict[str, str]
) -> None:
    """Below the golden logs, which do not show them."""
    file = tmp_path / "other.jsonl"
    text = (ROOT / "fixtures" / recording).read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    done = orch("diff", f"fixtures/{recording}", str(file), env=env)
    assert " equal lines" in done.stdout
    assert shown in done.stdout
    assert done.exit_code == 1


def test_a_fork_is_the_beginning_under_another_name(tmp_path: Path, env: dict[str, str], snapshot) -> None:
    """It replays, says where it is from, and nothing is written unless asked for."""
    arguments = ["fork", BARGE_IN, "--at", "BARGE_IN", "--reason", "to go on otherwise"]
    dry = orch(*arguments, env=env)
    assert dry.exit_code == 0
    assert dry.stderr == snapshot
    file = tmp_path / "fork.jsonl"
    assert orch(*arguments, "-o", str(file), env=env).exit_code == 0
    recording = parse(file.read_bytes(), "fork")
    assert "to go on otherwise" in recording.header.story
    assert replay(recording).divergence is None
    assert golden(recording.events())[-1] == "[auto_session_12345_fork] 🟣 INTERRUPT"


@pytest.mark.parametrize("at", ["41", "USER_INTERRUPTED", "STT_FINAL", "Speak[2]", "1.15s"])
def test_a_fork_ends_where_a_replay_would_stop(at: str, tmp_path: Path, env: dict[str, str]) -> None:
    """After the step in which the place lies, also where something decided is named and no input."""
    file = tmp_path / "fork.jsonl"
    stopped = json.loads(orch("replay", BARGE_IN, "--until", at, "--dump-state", env=env).stdout)
    assert orch("fork", BARGE_IN, "--at", at, "--reason", "a test", "-o", str(file), env=env).exit_code == 0
    *_, last = parse(file.read_bytes(), "fork").events()
    assert last.version == stopped["auto_session_12345"]["version"]


@pytest.mark.parametrize("old", ["s", "1", "Speak", "fixture"])
def test_a_fork_of_a_session_whose_id_occurs_in_other_ids(old: str, tmp_path: Path, env: dict[str, str]) -> None:
    """The name of a command, a number: only the session's own part of an id is replaced, so no result gets stale."""
    file, fork = tmp_path / "call.jsonl", tmp_path / "fork.jsonl"
    file.write_bytes((ROOT / BARGE_IN).read_bytes().replace(b"auto_session_12345", old.encode()))
    log = golden(parse(file.read_bytes(), "call").events())
    last = str(len(file.read_bytes().splitlines()) - 1)
    arguments = ["fork", str(file), "--at", last, "--reason", "a test", "--session", "new", "-o", str(fork)]
    assert orch(*arguments, env=env).exit_code == 0
    forked = golden(parse(fork.read_bytes(), "fork").events())
    assert forked == [line.replace(f"[{old}]", "[new]") for line in log]


def test_a_place_names_the_session_that_is_forked(env: dict[str, str]) -> None:
    """Of a recording of several; without a name it is the first."""
    arguments = ["fork", "fixtures/session_isolation.jsonl", "--reason", "a test", "--at"]
    for at, session in (("10", "auto_session_A"), ("auto_session_B:10", "auto_session_B")):
        assert orch(*arguments, at, env=env).stderr.startswith(f"{session}_fork: the first ")
    done = orch(*arguments, "auto_session_C:10", env=env)
    assert done.exit_code == 3
    assert "holds no event of auto_session_C" in done.stderr


def test_a_fork_at_a_place_that_is_not_there_is_refused(env: dict[str, str]) -> None:
    """With the place where the conversation ends."""
    done = orch("fork", BARGE_IN, "--at", "STT_FINAL[9]", "--reason", "a test", env=env)
    assert done.exit_code == 3
    assert "nothing in auto_session_12345 is at STT_FINAL[9]: it ends with version" in done.stderr


def test_an_import_says_where_the_test_is(
    tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch, snapshot
) -> None:
    """And how to write its golden log; an import over another test is refused."""
    source = str(ROOT / BARGE_IN)
    monkeypatch.chdir(tmp_path)
    assert orch("import", source, "--as-fixture", "cut_short", env=env).stderr == snapshot
    again = orch("import", source, "--as-fixture", "cut_short", env=env)
    assert again.exit_code == 3
    assert again.stderr == snapshot


@pytest.mark.parametrize(
    ("source", "options"), [("fixtures/released/0.1.0/call.jsonl", ["--rehash"]), (BARGE_IN, []), ("inputs", [])]
)
def test_an_imported_export_is_sound(source: str, options: list[str], tmp_path: Path, env: dict[str, str]) -> None:
    """Its checksum is the one of the lines that the import writes: rehashed ones, or with the derived events added."""
    old, folder = tmp_path / "old.jsonl", tmp_path / "tests"
    if source == "inputs":
        said = (line for line in (ROOT / BARGE_IN).read_bytes().splitlines()[1:] if isinstance(decode(line), Input))
        old.write_bytes(sealed(Header(derived=False), said))
    else:
        assert orch("export", source, "-o", str(old), env=env).exit_code == 0
    done = orch("import", str(old), "--as-fixture", "new", "--folder", str(folder), *options, env=env)
    assert done.exit_code == 0, done.stderr
    done = orch("verify", str(folder / "new.jsonl"), env=env)
    assert (done.exit_code, done.stdout[0]) == (0, "✓"), done.stdout


def test_the_catalogue_names_every_event(env: dict[str, str], snapshot) -> None:
    """With who says it; one by name, with its fields; a typing error is answered."""
    listed = orch("events", env=env).stdout
    assert [line.split()[0] for line in listed.splitlines()] == [*INPUTS, *DERIVED]
    assert listed == snapshot
    assert orch("events", "stt_final", env=env).stdout == snapshot
    done = orch("events", "STT_FINALE", env=env)
    assert done.exit_code == 3
    assert "did you mean STT_FINAL?" in done.stderr


def test_the_schemas_are_whole(env: dict[str, str]) -> None:
    """Every reference leads somewhere, in the JSON Schema and in the AsyncAPI document."""
    for option in ("--schema", "--asyncapi"):
        document = json.loads(orch("events", option, env=env).stdout)
        for reference in set(re.findall(r'"\$ref": "#/(.*?)"', json.dumps(document))):
            at = document
            for part in reference.split("/"):
                at = at[part]
            assert at is not None
    assert set(document["channels"]["ingress"]["messages"]) == set(INPUTS)


@pytest.mark.parametrize(
    "wrong",
    [["export", BARGE_IN, "--format", "wav"], ["export", BARGE_IN, "--redact", "some"], ["verify", "no*.jsonl"]],
)
def test_a_wrong_word_is_answered_with_the_right_ones(wrong: list[str], env: dict[str, str]) -> None:
    """Exit code 3."""
    done = orch(*wrong, env=env)
    assert done.exit_code == 3
    assert done.stderr.startswith("✗ ")
