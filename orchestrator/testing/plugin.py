"""The pytest plugin of orch: every recording in a folder is a test, and integration tests replay what they logged.

It is there as soon as orch is installed (entry point `orch`). Recordings in `tests/recordings`, or where the ini option
`orch_recordings` says, are replayed; the golden log of each stands beside it, written by `pytest --snapshot-update`
(syrupy). What is called `NAME.diverges.jsonl` must diverge; its golden file says by which rule, and where.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = "tests/recordings"
Log = Iterable[Any]
"""Committed events, or their lines."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("orch_recordings", "folders whose recordings (*.jsonl) are tests", "paths", [FOLDER])


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix != ".jsonl":
        return None
    folders = [Path(parent.config.rootpath, folder) for folder in parent.config.getini("orch_recordings")]
    if not any(folder in file_path.parents for folder in folders):
        return None
    return RecordingFile.from_parent(parent, path=file_path)


class RecordingFile(pytest.Module):
    """A recording; its one test replays it."""

    def _getobj(self) -> object:
        return self

    def collect(self) -> Iterator[pytest.Function]:
        yield pytest.Function.from_parent(self, name=self.path.stem, callobj=_test_of(self.path))


def _test_of(path: Path) -> Callable[..., None]:
    """The test of a recording, as if it stood in a module beside it."""

    def replays(snapshot: Any) -> None:
        from orchestrator.testing.golden_file import golden_file

        assert golden_of(path) == snapshot(name=path.stem, extension_class=golden_file(path.parent))

    replays.__name__ = path.stem  # syrupy wants the snapshot's name to contain the test's
    return replays


def golden_of(path: Path) -> str:
    """What the golden file beside a recording says. Fails where it diverges and must not, or the other way round."""
    from events.recording import parse
    from orchestrator.replay.replay import replay
    from orchestrator.replay.report import divergence_lines
    from projections.golden_log import golden

    found = replay(parse(path.read_bytes(), path.name))
    report = [] if found.divergence is None else [*divergence_lines(path.name, found.divergence)]
    if path.stem.endswith(".diverges"):
        if found.divergence is None:
            pytest.fail(f"{path.name} must diverge, and replays to itself", pytrace=False)
        return f"{found.divergence.rule.id} {found.divergence.rule.name} at version {found.divergence.version}\n"
    if report:
        pytest.fail("\n".join(report), pytrace=False)
    return "".join(f"{line}\n" for line in golden(found.events))


@pytest.fixture
def replays() -> Iterator[Callable[[Log], None]]:
    """`replays(log)`: when the test is over, this log is replayed, and must be equal."""
    logs: list[list[Any]] = []
    yield lambda log: logs.append([*log])
    for log in logs:
        _must_be_equal(log)


def _must_be_equal(log: list[Any]) -> None:
    from events.codec import encode
    from events.recording import Header, Recording
    from orchestrator.replay.replay import replay
    from orchestrator.replay.report import divergence_lines

    lines = tuple(line if isinstance(line, bytes) else encode(line) for line in log)
    found = replay(Recording("the log of this test", Header(), lines)).divergence
    if found is not None:
        pytest.fail("\n".join(divergence_lines("LOG", found)), pytrace=False)
