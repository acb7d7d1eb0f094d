"""`orch replay` with a change and `orch why`: their reports, as they were reviewed, and what they refuse."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli.service import ROOT, environment, orch, orch_process

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


@pytest.mark.parametrize("form", [[], ["--json"], ["--jsonl"]])
def test_an_unreadable_recording_of_a_folder_does_not_end_the_report(
    form: list[str], tmp_path: Path, env: dict[str, str]
) -> None:
    """It is named, the others are reported, and the exit code is 2."""
    folder = tmp_path / "calls"
    folder.mkdir()
    for name in ("a", "c"):
        shutil.copy(ROOT / BARGE_IN, folder / f"{name}.jsonl")
    (folder / "b.jsonl").write_text("no recording\n")
    done = orch("replay", str(folder), "--set", "interruption.min_words=5", *form, env=env)
    assert done.exit_code == 2
    assert re.fullmatch(r"✗ \S*b\.jsonl, line 1: not the header of a recording: .*\n", done.stderr)
    assert len(re.findall(r'"source": "\S*/[ac]\.jsonl"|of 2 conversations', done.stdout)) == (2 if form else 1)


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


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ("", "the file is empty; write one event a line"),
        ('{"type":"BARGE_IN","session_id":"nobody","at_us":4700000}\n', "session nobody is not in the recordings"),
        ('{"type":"BARGE_IN","at_us":7}\n', "at_us 7 is before session auto_session_8890377077 opens, at 17953610"),
    ],
)
def test_events_that_cannot_be_inserted_are_named(events: str, says: str, tmp_path: Path, env: dict[str, str]) -> None:
    """Exit code 3; before, they were left out in silence, or moved the opening of the session."""
    file = tmp_path / "more.jsonl"
    file.write_text(events)
    done = orch("replay", "fixtures/real_barge_in.jsonl", "--insert", str(file), env=env)
    assert (done.exit_code, done.stdout) == (3, "")
    assert says in done.stderr


def test_events_for_a_session_that_is_nowhere_end_it_before_anything_is_printed(
    tmp_path: Path, env: dict[str, str]
) -> None:
    """Also beside a recording that cannot be read: a table of what does not change would mislead."""
    file, damaged = tmp_path / "more.jsonl", tmp_path / "b.jsonl"
    file.write_text('{"type":"BARGE_IN","session_id":"nobody","at_us":4700000}\n')
    damaged.write_text("{")
    for form in ([], ["--jsonl"]):
        done = orch("replay", BARGE_IN, str(damaged), "--insert", str(file), *form, env=env)
        assert (done.exit_code, done.stdout) == (3, "")
        assert "session nobody is not in the recordings, of which 1 cannot be read" in done.stderr


def test_events_are_inserted_into_standard_input(tmp_path: Path, env: dict[str, str]) -> None:
    """Which can be read once."""
    file = tmp_path / "more.jsonl"
    file.write_text('{"type":"SESSION_CLOSE_REQUESTED","at_us":2000000}\n')
    text = (ROOT / BARGE_IN).read_text()
    done = orch_process("replay", "-", "--insert", str(file), "--json", env=env, stdin=text)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["recordings"]
    assert one["old"] != one["new"]


def test_events_of_one_of_several_sessions_can_be_inserted(tmp_path: Path, env: dict[str, str]) -> None:
    """Over a folder, each event needs its session in one of the recordings."""
    file = tmp_path / "more.jsonl"
    file.write_text('{"type":"SESSION_CLOSE_REQUESTED","session_id":"auto_session_B","at_us":2000000}\n')
    arguments = ["--insert", str(file), "--jsonl"]
    done = orch("replay", BARGE_IN, "fixtures/session_isolation.jsonl", *arguments, env=env)
    assert done.exit_code == 0
    old, new = (json.loads(line) for line in done.stdout.splitlines())
    assert (old["old"] == old["new"], new["old"] == new["new"]) == (True, False)


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
