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


@pytest.mark.parametrize("until", ["999", "nobody:3", "900s", "Speak[9]", "SESSION_RESUMED"])
def test_a_place_that_is_not_there_is_named(until: str, env: dict[str, str]) -> None:
    """As by `orch why`: exit code 3, and no state that somebody would take for that of the place."""
    done = orch("replay", "call.jsonl", "--until", until, "--dump-state", env=env)
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == f"✗ nothing in this log is at {until}; it ends at version 131\n"


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


def test_the_place_of_a_divergence_at_the_end_is_there(tmp_path: Path, env: dict[str, str]) -> None:
    """`orch replay` names it, and the command to see it: of an event too many, and of events that are missing."""
    file = tmp_path / "call.jsonl"
    header, *lines = file.read_text().splitlines()
    surplus = lines[-1].replace('"version":131', '"version":132').replace(":131", ":132")
    for changed in ([*lines, surplus], lines[:-1]):
        file.write_text("\n".join([header, *changed]) + "\n")
        said = orch("replay", "call.jsonl", env=env)
        (command,) = re.findall(r"orch (replay call\.jsonl --until \S+ --dump-state)", said.stdout + said.stderr)
        done = orch(*command.split(), env=env)
        assert done.exit_code == 1, done.stderr
        assert json.loads(done.stdout)


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
