"""`orch replay` with a change and `orch why`: their reports, as they were reviewed, and what they refuse."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.service import ROOT, environment, orch

BARGE_IN = "fixtures/barge_in.jsonl"


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Where the fixtures are, so that reports name them shortly."""
    monkeypatch.chdir(ROOT)
    return environment(tmp_path)


def test_old_and_new_stand_side_by_side(env: dict[str, str], snapshot) -> None:
    """Without the barge-in and the goodbye: what differs is marked, and what nobody recorded is counted."""
    done = orch("replay", BARGE_IN, "--without", "79", "--without", "auto_session_12345:120", env=env)
    assert done.exit_code == 0, done.output
    assert done.stdout == snapshot


def test_over_a_folder_a_table_says_what_is_decided_otherwise(env: dict[str, str], snapshot) -> None:
    """Interruptions more, pauses fewer."""
    done = orch("replay", "fixtures/failures", "--set", "interruption.min_speech_ms=0", env=env)
    assert done.exit_code == 0, done.output
    before, after = re.search(r"interrupted by barge_in +(\d+) → +(\d+)", done.stdout).groups()
    assert int(after) > int(before)
    assert done.stdout == snapshot


def test_a_policy_file_and_inserted_inputs(tmp_path: Path, env: dict[str, str], snapshot) -> None:
    """A policy as `ORCH_POLICY_FILE` has it; inputs as a person writes them."""
    policy, inserted = tmp_path / "policy.yaml", tmp_path / "more.jsonl"
    policy.write_text('filler:\n  text: "One moment."\n  delay_ms: 100\n')
    inserted.write_text('{"type":"STT_FINAL","text":"never mind","at_us":4700000,"via":"text"}\n')
    done = orch("replay", BARGE_IN, "--policy", str(policy), "--insert", str(inserted), "--json", env=env)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["schema"] == "orch.what_if/1"
    assert done.stdout == snapshot


@pytest.mark.parametrize(
    "wrong",
    [
        ["--set", "min_words=2"],
        ["--set", "interruption.min_word=2"],
        ["--set", "interruption.min_words=two"],
        ["--set", "interupt.min_words=2"],
        ["--without", "999"],
        ["--without", "38"],
        ["--policy", "missing.yaml"],
    ],
)
def test_a_change_that_cannot_be_made_is_named(wrong: list[str], env: dict[str, str], snapshot) -> None:
    """Exit code 3, and what to write instead."""
    done = orch("replay", BARGE_IN, *wrong, env=env)
    assert done.exit_code == 3
    assert done.stderr == snapshot


@pytest.mark.parametrize("place", ["38", "auto_session_12345:81", "75", "33"])
def test_why_names_the_chain_the_proof_and_the_conditions(place: str, env: dict[str, str], snapshot) -> None:
    """Of a command, of an interruption, of what came of a result, of an input."""
    done = orch("why", BARGE_IN, place, env=env)
    assert done.exit_code == 0
    assert done.stdout == snapshot


@pytest.mark.parametrize("place", ["999", "abc", "nobody:3"])
def test_what_is_not_there_is_no_traceback(place: str, env: dict[str, str]) -> None:
    """Exit code 3 and a sentence."""
    done = orch("why", BARGE_IN, place, env=env)
    assert done.exit_code == 3
    assert re.match("✗ .*version", done.stderr)


@pytest.mark.parametrize("command", [["why", "FILE", "80"], ["replay", "FILE", "--without", "79"]])
def test_a_log_that_is_not_sound_is_refused_in_words(command: list[str], tmp_path: Path, env: dict[str, str]) -> None:
    """Exit code 2, and where to look."""
    lines = (ROOT / BARGE_IN).read_bytes().splitlines(keepends=True)
    started = next(index for index, line in enumerate(lines) if b"TURN_STARTED" in line)
    file = tmp_path / "unsound.jsonl"
    file.write_bytes(b"".join(lines[:started] + lines[started + 1 :]))
    done = orch(*(str(file) if word == "FILE" else word for word in command), env=env)
    assert done.exit_code == 2
    assert "does not follow from what is before it; `orch verify` names every place" in done.stderr


def test_why_as_json_says_what_the_lines_say(env: dict[str, str]) -> None:
    """The chain back to the first input with its proof, and the conditions."""
    done = orch("why", BARGE_IN, "80", "--json", env=env)
    told, lines = json.loads(done.stdout), orch("why", BARGE_IN, "80", env=env).stdout
    assert told["schema"] == "orch.why/1"
    assert told["chain"][0]["version"] == told["event"]["version"] == 80
    assert all(f"[{cause['version']}]" in lines for cause in told["chain"])
    for one in told["conditions"]:
        assert f"  {one['what']}: {one['with']} instead of {one['was']}  → {one['then']}" in lines
    assert f"decided in {told['phase']};" in lines
