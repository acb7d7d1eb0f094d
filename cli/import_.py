"""`orch import`: a recorded session becomes a test."""

from pathlib import Path

from cli.sources import whole
from cli.terminal import UsageError, naming, say
from events.codec import encode
from events.recording import sealed
from orchestrator.replay.fold_on import upgraded
from orchestrator.replay.replay import replay
from orchestrator.testing.plugin import FOLDER


def run(source: str, *, as_fixture: str, story: str, folder: str, rehash: bool) -> int:
    if not as_fixture or Path(as_fixture).name != as_fixture:
        raise UsageError("say what the test is called: orch import SOURCE --as-fixture NAME")
    recording = whole(source)
    target = Path(folder or FOLDER) / f"{as_fixture.removesuffix('.jsonl')}.jsonl"
    if target.exists():
        raise UsageError(f"{target} is there already; choose another name, or remove it")
    found = replay(recording)
    if rehash:
        lines = tuple(map(encode, upgraded(recording.events() if recording.header.derived else found.events)))
    else:
        lines = recording.lines if recording.header.derived else tuple(map(encode, found.events))
    header = recording.header.model_copy(update={"derived": True, "story": story or recording.header.story})
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming(str(target)):
        target.write_bytes(sealed(header, lines))
    if found.divergence is not None and not target.stem.endswith(".diverges"):
        say(f"! it diverges from today's reducer; a test that it does is called {target.stem}.diverges")
    say(f"wrote {target}; write its golden log with: pytest {target.parent} --snapshot-update")
    return 0
