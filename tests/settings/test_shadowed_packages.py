"""Shows that a module of the user's that hides one of our packages is named, by its file, in one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.service import ROOT


@pytest.mark.parametrize("name", ["events", "cli", "projections"])
def test_a_module_that_hides_ours_is_named(name: str, tmp_path: Path) -> None:
    """Beside the user's program, where Python looks first."""
    (tmp_path / f"{name}.py").write_text("mine = True\n")
    program = tmp_path / "program.py"
    program.write_text("from orchestrator import Policy\n")
    done = subprocess.run(
        [sys.executable, str(program)], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"ImportError: orch needs its own package '{name}', and Python finds {tmp_path / name}.py")
    assert "rename that file" in said
