"""The pytest plugin of orch: every recording in a folder is a test, and integration tests replay what they logged.

Installing orch activates it (entry point `orch`). It replays the recordings in each folder `tests/recordings`, from
wherever pytest runs, or in the folders of the ini option `orch_recordings`. The golden log of each recording is a file
beside it, written by `pytest --snapshot-update` (syrupy, which the extra `test` installs). A recording named
`NAME.diverges.jsonl` must diverge; its golden file names the rule and the version.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

from orchestrator import refuse_shadows

FOLDER = "tests/recordings"
Log = Iterable[Any]
"""Committed events, or their lines."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("orch_recordings", "folders whose recordings (*.jsonl) are tests", "paths", [])


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix != ".jsonl" or file_path.name.startswith("."):  # hidden: a lock file of an editor
        return None
    named = parent.config.getini("orch_recordings")
    folders = {Path(os.path.abspath(folder)) for folder in named}  # noqa: PTH100 - links stay, as in pytest's own paths
    if not any(folder in folders if folders else folder.match(FOLDER) for folder in file_path.parents):
        return None
    return RecordingFile.from_parent(parent, path=file_path)


class RecordingFile(pytest.Module):
    """A recording, collected as a module whose only test replays it.

    It has a real module object because fixtures have module scope, and other plugins sort, group and seed by its name.
    """

    def _getobj(self) -> ModuleType:
        module = ModuleType(self.nodeid, f"The recording {self.path.name}.")
        module.__file__ = str(self.path)
        return module

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Collect as pytest collects a module with one function: with the parameters of the fixtures for all tests."""
        is_syrupy_there = self.config.pluginmanager.hasplugin("syrupy")
        test = _test_of(self.path) if is_syrupy_there else _test_without_syrupy(self.path)
        test.__module__ = self.obj.__name__
        test.__name__ = test.__qualname__ = self.path.stem  # syrupy wants the snapshot's name to contain the test's
        test.__test__ = True  # type: ignore[attr-defined]  # its name does not begin with test_
        setattr(self.obj, self.path.stem, test)
        return super().collect()


def _test_of(path: Path) -> Callable[..., None]:
    """The test of a recording, as if written in a module beside it."""

    def replays(snapshot: Any) -> None:
        from syrupy.assertion import SnapshotAssertion

        from orchestrator.testing.golden_file import golden_file

        if not isinstance(snapshot, SnapshotAssertion):
            _fail(path, f"the fixture `snapshot` is not syrupy's but one of {type(snapshot).__module__}")
        assert golden_of(path) == snapshot(name=path.stem, extension_class=golden_file(path.parent))

    return replays


def _test_without_syrupy(path: Path) -> Callable[..., None]:
    return lambda: _fail(path, "syrupy is not installed, or switched off")


def _fail(path: Path, problem: str) -> NoReturn:
    pytest.fail(
        f"{path.name} cannot be compared with its golden log: {problem}. Recordings are tests by syrupy: install "
        "`orch-voice[test]`, or name another folder in the ini option orch_recordings",
        pytrace=False,
    )


def golden_of(path: Path) -> str:
    """The expected text of a recording's golden file. Fails the test if the recording diverges and must not, or must
    diverge and does not.
    """
    _need_our_packages()
    from events.recording import BadRecordingError, parse
    from orchestrator.replay.replay import replay
    from orchestrator.replay.report import divergence_lines
    from projections.golden_log import golden

    try:
        found = replay(parse(path.read_bytes(), path.name))
    except (BadRecordingError, OSError) as error:
        pytest.fail(str(error), pytrace=False)
    report = [] if found.divergence is None else [*divergence_lines(_here(path), found.divergence)]
    if path.stem.endswith(".diverges"):
        if found.divergence is None:
            pytest.fail(f"{path.name} must diverge, and replays to itself", pytrace=False)
        return f"{found.divergence.rule.id} {found.divergence.rule.name} at version {found.divergence.version}\n"
    if report:
        pytest.fail("\n".join(report), pytrace=False)
    return "".join(f"{line}\n" for line in golden(found.events))


def _here(path: Path) -> str:
    """The path as typed in the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@pytest.fixture
def replays() -> Iterator[Callable[[Log], None]]:
    """`replays(log)`: replay this log at the end of the test, and fail if the replay differs."""
    logs: list[list[Any]] = []
    yield lambda log: logs.append([*log])
    for log in logs:
        _must_be_equal(log)


def _need_our_packages() -> None:
    """Fail the test with one sentence if a file of the user's, such as events.py, hides a package of orch."""
    try:
        refuse_shadows()
    except ImportError as error:
        pytest.fail(str(error), pytrace=False)


def _must_be_equal(log: list[Any]) -> None:
    _need_our_packages()
    from events.codec import encode
    from events.recording import Header, Recording
    from orchestrator.replay.replay import replay
    from orchestrator.replay.report import divergence_lines

    lines = tuple(line if isinstance(line, bytes) else encode(line) for line in log)
    found = replay(Recording("the log of this test", Header(), lines)).divergence
    if found is not None:
        pytest.fail("\n".join(divergence_lines("", found)), pytrace=False)
