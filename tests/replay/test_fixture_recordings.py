"""Replays every recording in fixtures/ and keeps its golden log beside it, to be read in review."""

from pathlib import Path

import pytest

from events.recording import parse
from fixtures.write import RECORDINGS
from orchestrator.replay.replay import replay
from orchestrator.testing.golden_file import golden_file
from projections.golden_log import golden

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
FILES = sorted(FIXTURES.glob("*.jsonl"))


def lines(name: str) -> list[str]:
    return golden(parse((FIXTURES / name).read_bytes(), name).events())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recording_replays_to_itself(file: Path, snapshot) -> None:
    """Today's reducer says exactly what was recorded, and its golden log is the one that was reviewed."""
    recording = parse(file.read_bytes(), file.name)
    replayed = replay(recording)
    assert replayed.divergence is None
    assert recording.header.story
    log = "\n".join(golden(replayed.events)) + "\n"
    assert log == snapshot(name=file.stem, extension_class=golden_file(FIXTURES))


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_is_what_its_story_writes(name: str) -> None:
    """`python -m fixtures.write` would change nothing."""
    assert (FIXTURES / name).read_bytes() == RECORDINGS[name]()


def test_case_1_is_a_whole_log() -> None:
    """Test case 1 of docs/target-flow.md, byte for byte, and nothing else."""
    assert lines("normal_flow.jsonl") == [
        "[auto_session_12345] 🟢 IDLE",
        "[auto_session_12345] 🔵 LISTENING (client_connected)",
        "[auto_session_12345] STT FINAL | text=hello",
        "[auto_session_12345] 🟡 THINKING",
        "[auto_session_12345] Processing complete in 300ms",
        "[auto_session_12345] 🔴 SPEAKING",
        "[auto_session_12345] TTS stream | chunks=10",
        "[auto_session_12345] 🔵 LISTENING (playback_done)",
    ]


def test_case_2_is_a_contiguous_slice() -> None:
    """Test case 2 of docs/target-flow.md, with no line between."""
    expected = [
        "[auto_session_12345] 🔴 SPEAKING",
        "[auto_session_12345] [TTS] Playing...",
        "[auto_session_12345] 🔴 User interrupted (barge_in)",
        "[auto_session_12345] Cancelling current task",
        "[auto_session_12345] 🟣 INTERRUPT",
        "[auto_session_12345] 🔵 LISTENING",
        "[auto_session_12345] STT FINAL | text=stop  (new user input)",
    ]
    found = lines("barge_in.jsonl")
    start = found.index(expected[0])
    assert found[start : start + len(expected)] == expected


def test_case_3_sessions_are_isolated() -> None:
    """Test case 3 of docs/target-flow.md: its lines of two sessions in one recording, in their order."""
    shown = ("STT FINAL", "THINKING", "SPEAKING")
    assert [line for line in lines("session_isolation.jsonl") if any(word in line for word in shown)] == [
        "[auto_session_A] STT FINAL | text=hello",
        "[auto_session_A] 🟡 THINKING",
        "[auto_session_B] STT FINAL | text=goodbye",
        "[auto_session_B] 🟡 THINKING",
        "[auto_session_A] 🔴 SPEAKING",
        "[auto_session_B] 🔴 SPEAKING",
    ]


def test_each_session_of_a_recording_is_a_session_by_itself() -> None:
    """Taken alone, A says and does what it did beside B."""
    data = (FIXTURES / "session_isolation.jsonl").read_bytes()
    header, *rest = data.splitlines(keepends=True)
    both = replay(parse(data, "both"))
    for name in ("auto_session_A", "auto_session_B"):
        alone = replay(parse(header + b"".join(line for line in rest if f'"{name}"'.encode() in line), name))
        assert alone.divergence is None
        assert alone.states == {name: both.states[name]}
