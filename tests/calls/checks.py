"""What every recorded call is checked for, and the shapes of the expected logs of docs/target-flow.md."""

from pathlib import Path

from events.codec import decode
from events.envelope import Event
from events.recording import parse
from orchestrator.replay.replay import replay
from orchestrator.session.evolve import fold
from tests.calls.service import Service

CASE_1 = [
    "🟢 IDLE",
    "🔵 LISTENING (client_connected)",
    "STT FINAL",
    "🟡 THINKING",
    "Processing complete",
    "🔴 SPEAKING",
    "TTS stream",
    "🔵 LISTENING (playback_done)",
]
CASE_2 = [
    "🔴 SPEAKING",
    "[TTS] Playing...",
    "🔴 User interrupted (barge_in)",
    "Cancelling current task",
    "🟣 INTERRUPT",
    "🔵 LISTENING",
    "STT FINAL",
]


def shape(golden: list[str]) -> list[str]:
    """Golden lines without what differs from call to call."""
    return [line.partition(" | ")[0].partition(" in ")[0] for line in golden]


async def exported(service: Service, session_id: str) -> list[Event]:
    """Export the session and replay it with the command line and in here; returns its events."""
    path, log = await replayed(service, session_id)
    assert (await service.orch("replay", "--check", str(path)))[0] == 0
    code, golden, words = await service.orch("show", str(path))
    assert code == 0, words
    ours = [line for line in service.lines if session_id in line]
    assert golden.splitlines() == ours[: len(golden.splitlines())]
    return log


async def replayed(service: Service, session_id: str) -> tuple[Path, list[Event]]:
    """Export the session and replay it in here; returns the file and its events."""
    path = Path(service.environment["ORCH_DATA_DIR"]) / f"{session_id}.jsonl"
    code, _, words = await service.orch("export", session_id, "-o", str(path))
    assert code == 0, words
    recording = parse(path.read_bytes(), path.name)
    log = [decode(line) for line in recording.lines]
    assert replay(recording).divergence is None
    assert fold(log).hash() == log[-1].state_hash
    return path, log
