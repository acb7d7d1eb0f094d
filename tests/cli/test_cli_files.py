"""Commands that read and write recordings: verify, export, diff, fork, events."""

import json
import re
from pathlib import Path

import pytest

from events.codec import DERIVED, INPUTS, encode
from events.inputs import SttFinal
from events.recording import parse
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
