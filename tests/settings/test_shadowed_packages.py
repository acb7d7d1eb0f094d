"""Shows that a module or package of the user's that hides one of ours is named, by its path, in one sentence."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.cli.service import ROOT

PROGRAM = "from orchestrator import Policy\nprint(Policy().deadlines.stt_ms)\n"


def run(folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, where Python looks first, with orch at `path`."""
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(folder / "program.py")]
    return subprocess.run(command, env={"PYTHONPATH": str(path)}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["events.py", "cli.py", "projections.py", "events", "projections"])
def test_a_module_or_package_that_hides_ours_is_named(name: str, tmp_path: Path) -> None:
    """Beside the user's program, where Python looks first."""
    mine = tmp_path / name
    if mine.suffix:
        mine.write_text("mine = True\n")
    else:
        mine.mkdir()
        (mine / "__init__.py").write_text("mine = True\n")
    done = run(tmp_path, ROOT)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith(
        f"ImportError: orch needs its own package '{mine.stem}', and Python finds {mine} in its place"
    )
    assert f"rename that {'file' if mine.suffix else 'folder'}" in said


@pytest.mark.parametrize(
    "how", ["a folder without a module", "cli", "through a link", "through links", "from a zip file"]
)
def test_our_own_packages_are_taken_wherever_they_are(how: str, tmp_path: Path) -> None:
    """A folder of the user's that is no package hides nothing, and a package `cli` nothing that is needed."""
    path = ROOT
    if how == "cli":
        (tmp_path / "cli").mkdir()
        (tmp_path / "cli" / "__init__.py").write_text("mine = True\n")
    elif how == "through links":
        path = tmp_path / "linked"
        for package in ("events", "orchestrator", "projections", "cli"):
            for file in (ROOT / package).rglob("*.py"):
                link = path / file.relative_to(ROOT)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)
    elif how == "a folder without a module":
        (tmp_path / "events").mkdir()
    elif how == "through a link":
        path = tmp_path / "linked"
        path.symlink_to(ROOT)
    else:
        path = tmp_path / "orch.zip"
        with zipfile.ZipFile(path, "w") as packed:
            for package in ("events", "orchestrator", "projections", "cli"):
                for file in (ROOT / package).rglob("*.py"):
                    packed.write(file, file.relative_to(ROOT))
    done = run(tmp_path, path)
    assert (done.returncode, done.stdout) == (0, "3000\n"), done.stderr
