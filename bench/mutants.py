"""Generates the mutants of a module of the core, with mutmut's operators."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from mutmut.configuration import config
from mutmut.mutation.file_mutation import create_mutations, deep_replace


@dataclass(frozen=True)
class Mutant:
    file: Path
    line: int
    change: str
    """`file: before → after`, the key in mutation_reasons.toml."""
    source: str
    function: range
    """Lines of the enclosing function; empty for code that runs at import."""


def mutants(file: Path) -> Iterator[Mutant]:
    """All mutants within functions; for code that runs at import, only one mutant per string."""
    code = file.read_text("utf-8")
    module, mutations, *_ = create_mutations(str(file), code)
    functions = [*functions_in(ast.parse(code))]
    for mutation in mutations:
        tree = deep_replace(module, mutation.original_node, mutation.mutated_node)
        assert isinstance(tree, cst.Module), "one node was replaced by one other"
        line, was, now = difference(code.splitlines(), tree.code.splitlines())
        function = next((lines for lines in functions if line in lines), range(0))
        if not function:
            mutated = mutation.mutated_node
            again = isinstance(mutated, cst.SimpleString) and "XX" not in mutated.value
            if again or any(re.search(pattern, was) for pattern in config().do_not_mutate_patterns):
                continue
        yield Mutant(file, line, f"{file.name}: {was} → {now}", tree.code, function)


def functions_in(module: ast.Module) -> Iterator[range]:
    """The lines of each function's body."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef):
            yield range(node.body[0].lineno, (node.end_lineno or 0) + 1)


def difference(old: list[str], new: list[str]) -> tuple[int, str, str]:
    """Number of the first differing line, and the differing lines of each side, joined."""
    shorter = min(len(old), len(new))
    start = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    end = next((i for i in range(shorter - start) if old[-1 - i] != new[-1 - i]), shorter - start)
    was, now = old[start : len(old) - end], new[start : len(new) - end]
    return start + 1, " ".join(map(str.strip, was)), " ".join(map(str.strip, now))
