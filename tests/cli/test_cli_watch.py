"""`orch replay` of one recording, watched: up to a place, step by step, at a speed, with its state."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.cli.service import ROOT, environment, orch, orch_process


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """In a folder with one recording."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "fixtures" / "barge_in.jsonl", tmp_path / "call.jsonl")
    return environment(tmp_path)


@pytest.mark.parametrize(
    ("until", "version"),
    [("41", 42), ("auto_session_12345:40", 42), ("1.15s", 14), ("1300ms", 15), ("STT_FINAL", 30), ("Speak[2]", 110)],
)
def test_a_replay_stops_where_it_is_told_to(until: str, version: int, env: dict[str, str]) -> None:
    """After the step in which the place lies: a version, a time, the first or k-th of a type or of a command."""
    done = orch("replay", "call.jsonl", "--until", until, "--dump-state", env=env)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["auto_session_12345"]["version"] == version
    assert done.stderr.startswith(f"stopped at {until}\n")


def test_the_state_is_dumped_whole(env: dict[str, str], snapshot) -> None:
    """Every field but the policy, what is outstanding by its id, and the hash."""
    assert orch("replay", "call.jsonl", "--until", "USER_INTERRUPTED", "--dump-state", env=env).stdout == snapshot


def test_where_it_diverges_both_states_are_dumped(tmp_path: Path, env: dict[str, str]) -> None:
    """What was recorded, and what today's reducer makes of it."""
    file = tmp_path / "call.jsonl"
    text = file.read_text()
    place = text.index('"intent_deadline"')
    file.write_text(text[:place] + text[place:].replace('"to_phase":"SPEAKING"', '"to_phase":"LISTENING"', 1))
    done = orch("replay", "call.jsonl", "--dump-state", "--until", "36", env=env)
    assert done.exit_code == 1
    states = json.loads(done.stdout)["auto_session_12345"]
    assert (states["phase"], states["replayed"]["phase"]) == ("LISTENING", "SPEAKING")


def test_a_person_walks_through_it(env: dict[str, str], snapshot) -> None:
    """Next, what changed, go to, previous, the state, a typing error, the end of the input."""
    done = orch_process("replay", "call.jsonl", "--step", env=env, stdin="n\nd\ng 40\np\nx\n\n")
    assert done.returncode == 0
    assert done.stdout == snapshot
    assert done.stderr.count("n next · p previous") == 2


def test_it_plays_at_its_own_speed(env: dict[str, str]) -> None:
    """`max` at once; with a factor, pauses as they were, so many times shorter."""
    at_once = orch("replay", "call.jsonl", "--speed", "max", env=env)
    began = time.monotonic()
    played = orch("replay", "call.jsonl", "--speed", "20x", env=env)
    assert time.monotonic() - began >= 5.72 / 20, "the recording lasts 5.72 s"
    assert at_once.stdout == played.stdout == orch("show", "call.jsonl", env=env).stdout


@pytest.mark.parametrize(
    "wrong",
    [["--until", "NONSENSE"], ["--speed", "fast"], ["--speed", "0x"], ["--step", "call.jsonl"], ["--incomplete", "no"]],
)
def test_what_cannot_be_meant_is_answered_with_what_can(wrong: list[str], env: dict[str, str], snapshot) -> None:
    """Exit code 3 and one line."""
    done = orch("replay", "call.jsonl", *wrong, env=env)
    assert done.exit_code == 3
    assert re.sub(r"\d+\.\d ms", "", done.stderr) == snapshot


@pytest.mark.parametrize(
    "options",
    [
        ("--until", "41", "--check"),
        ("--dump-state", "--json"),
        ("--set", "interruption.min_words=2", "--until", "41"),
        ("--without", "20", "--quiet"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(options: tuple[str, ...], env: dict[str, str]) -> None:
    """Nobody believes that a log was checked that was only looked at."""
    done = orch("replay", "call.jsonl", *options, env=env)
    assert done.exit_code == 3
    assert "has no effect beside" in done.stderr
