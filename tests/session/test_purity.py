"""Shows that the core does nothing but compute: no library for I/O is loaded by it, no clock or dice in its reach."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator.session

CORE = sorted(Path(orchestrator.session.__file__).parent.glob("*.py"))
OUTSIDE = {
    *("asyncio", "concurrent", "multiprocessing", "select", "selectors", "signal", "socket", "ssl", "subprocess"),
    *("http", "urllib.request", "logging", "sqlite3", "tempfile", "threading", "uuid", "random", "secrets"),
    *(
        "aiohttp",
        "aiortc",
        "av",
        "faststream",
        "numpy",
        "opentelemetry",
        "redis",
        "sqlalchemy",
        "typer",
        "uvloop",
        "yaml",
    ),
    *("orchestrator.gateway", "orchestrator.media", "orchestrator.runtime", "orchestrator.services", "projections"),
}
ALLOWED = {
    "re",
    "collections",
    "dataclasses",
    "events",
    "functools",
    "hashlib",
    "icu4py",
    "itertools",
    "operator",
    "orchestrator",
    "pydantic",
    "pydantic_core",
    "typing",
    "unicodedata",
}
IMPURE = {
    "time",
    "datetime",
    "random",
    "secrets",
    "uuid",
    "os",
    "io",
    "sys",
    "logging",
    "pathlib",
    "socket",
    "threading",
}
MADE = {("fields", "eval")}
"""An expression over the names of the declared fields and nothing else (decision 021)."""
BUILTINS = {"open", "print", "input", "exec", "eval", "id", "hash", "__import__"}


def loaded(*statements: str) -> set[str]:
    """What a fresh interpreter has loaded after these imports."""
    code = ";".join([*statements, "import sys", "print(*sys.modules)"])
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def test_the_reducer_loads_no_library_for_io() -> None:
    """Nothing beyond what pydantic itself loads: a replay starts fast and cannot reach the network."""
    model = "class M(pydantic.BaseModel): x: int"
    base = loaded("import pydantic, hashlib", "import pydantic.json_schema", f"exec('{model}')")
    more = loaded("import orchestrator.session.reducer", "import orchestrator.replay.replay") - base
    found = {module for module in more for name in OUTSIDE if module == name or module.startswith(f"{name}.")}
    assert found == set()


@pytest.mark.parametrize("file", CORE, ids=lambda file: file.stem)
def test_a_module_of_the_core_imports_nothing_impure(file: Path) -> None:
    """Neither clock, random nor uuid, by any name; the allowed ones are few and listed."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            names = {alias.name for alias in node.names}
            roots = {module.split(".")[0]} if module else {name.split(".")[0] for name in names}
            assert roots <= ALLOWED
            assert not (roots | names) & IMPURE


@pytest.mark.parametrize("file", CORE, ids=lambda file: file.stem)
def test_a_module_of_the_core_reads_no_file_and_prints_nothing(file: Path) -> None:
    """Nor does it use what differs from one interpreter to the next, such as hash() and id(), or a float."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Name):
            assert node.id not in BUILTINS | {"float"} or (file.stem, node.id) in MADE
        if isinstance(node, ast.BinOp):
            assert not isinstance(node.op, ast.Div)
        if isinstance(node, ast.Constant):
            assert not isinstance(node.value, float)


@pytest.mark.parametrize("file", CORE, ids=lambda file: file.stem)
def test_a_module_of_the_core_imports_events_and_itself_alone(file: Path) -> None:
    """`events ◄ session`: the arrow has one direction."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("orchestrator"):
            assert node.module.startswith("orchestrator.session")
