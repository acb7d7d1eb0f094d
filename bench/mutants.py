"""The mutants of the core that mutmut does not run, or did not kill, each in a process that imports the core anew.

mutmut 3 switches mutants on within functions, after the import: it leaves out tables, defaults and constants, and it
cannot kill a mutant of a function that is called at import alone. Here, its operators change the source of a module.
"""

import contextlib
import importlib
import importlib.util
import io
import os
import re
import signal
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

import libcst as cst
from mutmut.configuration import config
from mutmut.mutation.file_mutation import create_mutations, deep_replace, mutate_file_contents
from mutmut.utils.format_utils import get_mutant_name

TESTS = (
    ["tests/session", "--ignore=tests/session/test_purity.py", "--ignore=tests/session/test_any_order.py"],
    ["tests/replay"],
    ["tests/docs", "-k", "drawn or policy"],
    ["tests/session/test_any_order.py"],
)
"""The telling ones first. test_purity reads the source as text: it cannot tell what the code does."""
BASELINE_S = 600


@dataclass(frozen=True)
class Mutant:
    file: Path
    line: int
    change: str
    """`file: before → after`, as the reasons name it."""
    source: str


def mutants(file: Path, unsettled: Collection[str]) -> Iterator[Mutant]:
    """Of the mutants within functions, those that are named here; and all of what runs at import, a string once."""
    code = file.read_text("utf-8")
    module, mutations, *_ = create_mutations(str(file), code)
    nodes = [n for top in module.body for n in (top.body.body if isinstance(top, cst.ClassDef) else [top])]
    bodies = {id(node): list[Any]() for node in nodes if isinstance(node, cst.FunctionDef)}
    outside = [m for m in mutations if id(m.contained_by_top_level_function) not in bodies]
    at_import = [m for m in outside if not isinstance(m.mutated_node, cst.SimpleString) or "XX" in m.mutated_node.value]
    for mutation in mutations:
        bodies.get(id(mutation.contained_by_top_level_function), []).append(mutation)
    names = [get_mutant_name(file, name) for name in mutate_file_contents(str(file), code).mutant_names]
    inside = zip(names, (mutation for body in bodies.values() for mutation in body), strict=True)
    for name, mutation in (*inside, *(("", mutation) for mutation in at_import)):
        if not name or name in unsettled:
            tree = deep_replace(module, mutation.original_node, mutation.mutated_node)
            assert isinstance(tree, cst.Module), "one node was replaced by one other"
            line, was, now = difference(code.splitlines(), tree.code.splitlines())
            if name or not any(re.search(pattern, was) for pattern in config().do_not_mutate_patterns):
                yield Mutant(file, line, f"{file.name}: {was} → {now}", tree.code)


def difference(old: list[str], new: list[str]) -> tuple[int, str, str]:
    """The first line that differs, and what differs on either side."""
    shorter = min(len(old), len(new))
    start = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    end = next((i for i in range(shorter - start) if old[-1 - i] != new[-1 - i]), shorter - start)
    was, now = old[start : len(old) - end], new[start : len(new) - end]
    return start + 1, " ".join(map(str.strip, was)), " ".join(map(str.strip, now))


class Overlay(SourceFileLoader):
    """Finds and loads one module, from another source than its file."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(".".join(mutant.file.with_suffix("").parts).removesuffix(".__init__"), str(mutant.file))
        self.source = mutant.source

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        found = fullname == self.name
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self) if found else None

    def get_code(self, fullname: str) -> Any:
        return compile(self.source, self.path, "exec", dont_inherit=True)


def survivors(todo: list[Mutant], workers: int) -> list[Mutant]:
    """Those that all of TESTS pass with."""
    import pytest

    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["--markers", *config().pytest_add_cli_args])  # loads the plugins, so that the forks need not
    for module in ("events.codec", "events.recording", "hypothesis.strategies"):
        importlib.import_module(module)
    assert "orchestrator" not in sys.modules, "the forks import the core"
    began = time.monotonic()
    if not [*surviving([None], 1, BASELINE_S)]:
        raise SystemExit(f"a test fails without any mutation: {TESTS}")
    return [m for m in surviving(todo, workers, 20 + 4 * (time.monotonic() - began)) if m is not None]


def surviving(todo: Collection[Mutant | None], workers: int, limit_s: float) -> Iterator[Mutant | None]:
    """Those that no test notices. One that never ends is noticed."""
    queue, running = [*todo][::-1], dict[int, tuple[Mutant | None, float]]()
    while queue or running:
        while queue and len(running) < workers:
            mutant = queue.pop()
            running[start(mutant)] = (mutant, time.monotonic() + limit_s)
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            mutant, _ = running.pop(pid)
            if status == 0:
                yield mutant
            continue
        for late in (pid for pid, (_, until) in running.items() if time.monotonic() > until):
            os.kill(late, signal.SIGKILL)
        time.sleep(0.01)


def start(mutant: Mutant | None) -> int:
    """Fork a process that exits with 0 if no test fails."""
    if pid := os.fork():
        return pid
    failed = True
    try:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        if mutant is not None:
            sys.meta_path.insert(0, Overlay(mutant))  # type: ignore[arg-type]
        import pytest

        options = ["-x", "-q", "--rootdir=.", *config().pytest_add_cli_args]
        failed = any(pytest.main([*options, *tests]) for tests in TESTS)
    finally:
        os._exit(failed)
