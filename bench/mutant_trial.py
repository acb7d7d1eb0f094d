"""Runs the tests against mutants of the core, each in a fresh process, and finds the mutants that survive.

Replaces mutmut's runner, which enables mutants after the import and so cannot try tables, defaults and constants. The
recordings run first: they kill most mutants in half a second.
"""

import contextlib
import importlib
import importlib.util
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, SourceFileLoader
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from coverage import Coverage

from bench.mutants import Mutant

PAGES = "tests/docs/test_the_pages_tell_the_truth.py"
TESTS = (
    *(
        "tests/session",
        "tests/replay",
        "-k",
        "not replays_to_itself and not story_writes and not plugin and not false_alarm",
    ),  # Trial.recordings replay
    *(f"{PAGES}::test_pages_drawn_from_the_code_are_up_to_date", f"{PAGES}::test_the_policy_page_names_every_field"),
    "--ignore=tests/session/test_purity.py",  # reads the source as text, so it kills no mutant
    "--ignore=tests/session/test_against_the_naive_model.py",
    "--ignore=tests/session/test_any_order.py",
)
"""Leaves out the two long Hypothesis searches: mutants that only they would kill count as survivors."""
TELLING = {"policy": PAGES, "fsm": PAGES}
"""Module → the tests to run first, if not tests/session/test_MODULE.py."""
PYTEST = (
    *("-q", "--rootdir=.", "--assert=plain", "--hypothesis-seed=0"),
    *(f"-p{plugin}" for plugin in ("asyncio", "hypothesispytest", "syrupy", "timeout")),
    *("-pno:cacheprovider", "-pno:randomly", "--override-ini=timeout=0"),  # a trial has a limit of its own
)
BASELINE_S = 600
BUSY = 20
"""A trial is given up after this many times its limit by the clock: it stands still. The limit itself counts processor
time, which a busy machine does not change."""


@dataclass(eq=False)
class CoverageByTest:
    """A pytest plugin that records which lines of the core each test runs, and how long it takes."""

    took_s: dict[str, float] = field(default_factory=dict)
    tests: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    """File → line → tests; an empty name stands for the import."""
    _coverage: Coverage | None = None
    """While the tests run."""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self._coverage is not None:
            self._coverage.switch_context(nodeid)
        self.took_s[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.took_s[nodeid] = time.monotonic() - self.took_s[nodeid]

    @classmethod
    def observed(cls) -> "CoverageByTest":
        """Run the tests. Raises RuntimeError if one fails."""
        import pytest

        calls = cls()
        calls._coverage = coverage = Coverage(data_file=None, config_file=False, include=["orchestrator/session/*"])
        with contextlib.redirect_stdout(io.StringIO()) as output, coverage.collect():
            failed = pytest.main([*PYTEST, *TESTS], plugins=[calls])
        if failed:
            raise RuntimeError(f"without any mutation, a test fails:\n{output.getvalue()}")
        data = coverage.get_data()
        calls.tests = {Path(file).name: data.contexts_by_lineno(file) for file in data.measured_files()}
        calls._coverage = None
        return calls

    def tests_for(self, mutant: Mutant) -> tuple[list[str], list[str]]:
        """Tests that call the mutant's function, or all for code outside functions: its module's, then the others."""
        lines = self.tests.get(mutant.file.name, {})
        called = {test for line in mutant.function for test in lines.get(line, ())}
        tests = sorted(called if called and "" not in called else self.took_s, key=self.took_s.__getitem__)
        telling = TELLING.get(mutant.file.stem, f"tests/session/test_{mutant.file.stem}")
        return [t for t in tests if t.startswith(telling)], [t for t in tests if not t.startswith(telling)]


class Overlay(SourceFileLoader):
    """An import hook that loads one module from the mutant's source instead of its file."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(".".join(mutant.file.with_suffix("").parts).removesuffix(".__init__"), str(mutant.file))
        self.source = mutant.source

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        found = fullname == self.name
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self) if found else None

    def get_code(self, fullname: str) -> Any:
        return compile(self.source, self.path, "exec", dont_inherit=True)


class Trial:
    """Tries mutants in forks of this process, which has imported the tests' libraries but not the core."""

    def __init__(self, workers: int) -> None:
        """Run the tests once without a mutation. Raises RuntimeError if one fails."""
        import pytest

        from events.recording import parse

        self.workers = workers
        with contextlib.redirect_stdout(io.StringIO()):
            pytest.main(["--markers", *PYTEST])
        for module in ("events.codec", "hypothesis.strategies"):
            importlib.import_module(module)
        self.recordings = [parse(f.read_bytes(), f.name) for f in sorted(Path("fixtures").rglob("*.jsonl"))]
        with ProcessPoolExecutor(1, get_context("fork")) as pool:
            self.calls = pool.submit(CoverageByTest.observed).result()
        assert "orchestrator" not in sys.modules, "the forks import the core"
        file, before_s = Path("orchestrator/session/evolve.py"), _of_children_s()
        if not [*self._surviving([Mutant(file, 0, "", file.read_text("utf-8"), range(0))], BASELINE_S)]:
            raise RuntimeError("without any mutation, a recording or a test fails")
        self.limit_s = 20 + 4 * (_of_children_s() - before_s)

    def survivors(self, todo: Iterable[Mutant]) -> list[Mutant]:
        """The mutants that no recording and no test kills. A timeout counts as killed."""
        return [*self._surviving(todo, self.limit_s)]

    def _surviving(self, todo: Iterable[Mutant], limit_s: float) -> Iterator[Mutant]:
        queue, running = [*todo][::-1], dict[int, tuple[Mutant, float]]()
        while queue or running:
            while queue and len(running) < self.workers:
                mutant = queue.pop()
                running[self._start(mutant, limit_s)] = (mutant, time.monotonic() + BUSY * limit_s)
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                mutant, _ = running.pop(pid)
                if status == 0:
                    yield mutant
                continue
            for late in (pid for pid, (_, until) in running.items() if time.monotonic() > until):
                os.kill(late, signal.SIGKILL)
            time.sleep(0.01)

    def _start(self, mutant: Mutant, limit_s: float) -> int:
        """Fork a process that exits with 0 if the mutant survives; returns its pid. It may use `limit_s` of processor
        time.
        """
        if pid := os.fork():
            return pid
        noticed = True
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s), int(limit_s)))
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            sys.meta_path.insert(0, Overlay(mutant))
            noticed = self._is_noticed(mutant)
        finally:
            os._exit(noticed)

    def _is_noticed(self, mutant: Mutant) -> bool:
        telling, others = self.calls.tests_for(mutant)
        tries = [self._is_replayed_otherwise, lambda: _fails(telling), lambda: _fails(others)]
        if not mutant.function:  # texts and numbers: recordings seldom kill these
            tries[:2] = reversed(tries[:2])
        return any(noticed() for noticed in tries)

    def _is_replayed_otherwise(self) -> bool:
        from orchestrator.replay.replay import replay

        return any(replay(recording).divergence for recording in self.recordings)


def _of_children_s() -> float:
    """The processor time of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _fails(tests: list[str]) -> bool:
    import pytest

    return bool(tests) and bool(pytest.main([*PYTEST, "-x", *tests]))
