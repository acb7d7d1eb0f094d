"""Recordings damaged in every way there is: each is judged or refused in words, and nothing falls over."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from cli.replay_files import How, replay_source
from events.recording import BadRecordingError, parse, stream
from orchestrator.replay import report
from orchestrator.replay.change import Change
from orchestrator.replay.fold_on import UnsoundLogError
from orchestrator.replay.redact import redacted
from orchestrator.replay.verify import verify
from orchestrator.replay.what_if import what_if
from orchestrator.replay.why import why

FILES = sorted((Path(__file__).resolve().parents[2] / "fixtures").rglob("*.jsonl"))
WORDS = (b"SPEAKING", b"hello", b"Speak", b"answer-1", b"StartTimer", b"THINKING", b"")


def a_line_lost(lines: list[bytes], at: int, random: Random) -> None:
    del lines[at]


def a_line_twice(lines: list[bytes], at: int, random: Random) -> None:
    lines.insert(at, random.choice(lines[1:]))


def two_lines_swapped(lines: list[bytes], at: int, random: Random) -> None:
    other = random.randrange(1, len(lines))
    lines[at], lines[other] = lines[other], lines[at]


def a_byte_changed(lines: list[bytes], at: int, random: Random) -> None:
    line = bytearray(lines[at])
    line[random.randrange(len(line))] = random.randrange(32, 127)
    lines[at] = bytes(line)


def numbers_changed(lines: list[bytes], at: int, random: Random) -> None:
    lines[at] = lines[at].replace(b"1", b"2")


def a_word_changed(lines: list[bytes], at: int, random: Random) -> None:
    lines[at] = lines[at].replace(random.choice(WORDS[:-1]), random.choice(WORDS))


def cut_off(lines: list[bytes], at: int, random: Random) -> None:
    del lines[at + 1 :]


DAMAGE: list[Callable[[list[bytes], int, Random], None]] = [
    *(a_line_lost, a_line_twice, two_lines_swapped, a_byte_changed, numbers_changed, a_word_changed, cut_off)
]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_wrong_with_a_file_is_said_in_words(seed: int, tmp_path: Path) -> None:
    """Replay, check, verify, redact, what if and why: an outcome or an error that names the place."""
    random = Random(seed)
    lines = random.choice(FILES).read_bytes().splitlines()
    for _ in range(random.choice((1, 1, 2, 5))):
        random.choice(DAMAGE)(lines, random.randrange(1, len(lines) - 1), random)
    file = tmp_path / "damaged.jsonl"
    file.write_bytes(b"\n".join(lines) + random.choice((b"\n", b"\n", b"")))
    for how in (How(), How(keep_going=True, check=True), How(is_incomplete=True)):
        verdict = replay_source(str(file), how)
        assert verdict.outcome in ("equal", "diverged", "broken", "unreadable")
        assert report.line(verdict)
        assert [*report.details(verdict)] or verdict.outcome in ("equal", "unreadable")
        assert report.as_json(verdict)["outcome"] == verdict.outcome
    refused = refusal(file.read_bytes(), random)
    assert not refused or "line " in refused or "version " in refused


def refusal(data: bytes, random: Random) -> str:
    """Why a recording is not looked at any closer; empty: it was."""
    try:
        verify(*stream([data], "damaged.jsonl"))
        log = [*parse(data, "damaged.jsonl").events()]
        assert len([*redacted(log, "default")]) == len(log)
        what_if(log, Change())
        one = [event for event in log if event.session_id == log[0].session_id]
        why(one, random.choice(one).version)
    except (BadRecordingError, UnsoundLogError) as error:
        return str(error)
    return ""
