"""`orch replay`: the golden log on standard output, the verdict on standard error."""

import sys
import time
from pathlib import Path

from cli.terminal import run as run_loop
from cli.terminal import say
from events.codec import encode
from events.recording import BadRecordingError, Recording, parse
from orchestrator.replay.replay import Divergence, Replay, differing_fields, replay
from orchestrator.session import REDUCER_VERSION
from projections.golden_log import GoldenLog

EQUAL, DIVERGED, UNREADABLE = 0, 1, 2


def run(sources: list[str], quiet: bool) -> int:
    """Replay each source; the exit code is that of the worst."""
    return max(_replay_one(source, quiet=quiet) for source in sources)


def _replay_one(source: str, *, quiet: bool) -> int:
    started = time.perf_counter()
    try:
        recording = _read(source)
        result = replay(recording)
    except (BadRecordingError, LookupError, OSError) as error:
        say(f"✗ {error}")
        return UNREADABLE
    if not quiet:
        golden = GoldenLog()
        for event in result.events:
            if (line := golden.line(event)) is not None:
                print(line)
        sys.stdout.flush()
    if result.divergence is not None:
        _explain(source, recording, result.divergence)
        return DIVERGED
    say(_verdict(source, recording, result, time.perf_counter() - started))
    return EQUAL


def _read(source: str) -> Recording:
    """A file where there is one of that name, else a session of the running service."""
    path = Path(source)
    if path.exists() or path.suffix:
        return parse(path.read_bytes(), source)
    from cli.export import recording_of  # only a session needs Redis

    return parse(run_loop(recording_of(source)), source)


def _verdict(source: str, recording: Recording, result: Replay, seconds: float) -> str:
    states = ", ".join(f"{sid} {s.phase} {s.hash()}" for sid, s in result.states.items())
    what = "identical" if recording.header.derived else "completed (inputs alone)"
    return (
        f"✓ {source}: {what}, {len(result.events)} events, {result.commands} commands, {states}, {seconds * 1e3:.1f} ms"
    )


def _explain(source: str, recording: Recording, found: Divergence) -> None:
    say(f"✗ {source} diverged at line {found.line}")
    say(f"  recorded by reducer {recording.header.reducer_version or '(unknown)'}, replayed with {REDUCER_VERSION}")
    say(f"  recorded    {encode(found.recorded).decode() if found.recorded else '(nothing)'}")
    say(f"  replayed    {encode(found.replayed).decode() if found.replayed else '(nothing)'}")
    if found.recorded and found.replayed:
        for name, (recorded, replayed) in differing_fields(found).items():
            say(f"  differs     {name}: {recorded!r} → {replayed!r}")
