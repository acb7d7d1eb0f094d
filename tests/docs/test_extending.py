"""docs/extending.md, carried out: each walk in a copy of the tree, with its check and with all recordings replayed."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cli.service import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
PACKAGES = ("events", "orchestrator", "projections", "cli", "fixtures")
MOST_FILES = {
    "A state field": 1,
    "A policy number": 2,
    "An input event": 3,
    "A result event": 6,
    "A command": 5,
    "A request that outlives its turn": 4,
    "A projection": 1,
}
"""How many files of the product a walk may touch. A number that has to rise says that a fact stands in two places."""
EVENT_TESTS = ["tests/events/test_event_docstrings.py", "tests/session/test_phase_table.py"]
"""What must hold of every event."""


@dataclass
class Walk:
    """One section: its patches, new files and checks."""

    title: str
    patches: list[tuple[str, str]] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)

    @property
    def touched(self) -> set[str]:
        return {path for path, _ in (*self.patches, *self.files)}


def walks() -> list[Walk]:
    """The sections of the page, in order."""
    found = []
    for section in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]:
        walk = Walk(section.partition("\n")[0])
        for how, text in re.findall(r"^```(diff|python.*?)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
            if how == "diff":
                first, _, body = text.partition("\n")
                walk.patches.append((first.removeprefix("--- "), body))
            elif "file=" in how:
                walk.files.append((how.partition("file=")[2], text))
            else:
                walk.checks.append(text)
        found.append(walk)
    return found


def patched(text: str, patch: str) -> str:
    """The text after a patch: context and removed lines stand there exactly once; `+++ before` inserts before them."""
    new = patch.partition("+++ before\n")[2]
    lines = patch.replace("+++ before\n", "").splitlines(keepends=True)
    there = "".join(line[1:] for line in lines if line[0] in " -")
    if new:
        after = "".join(line[1:] for line in new.splitlines(keepends=True)) + there
    else:
        after = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(there) == 1, f"stands {text.count(there)} times in the file:\n{there}"
    return text.replace(there, after)


def carry_out(walk: Walk, tree: Path) -> None:
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path, patch in walk.patches:
        (tree / path).write_text(patched((tree / path).read_text("utf-8"), patch), "utf-8")
    for path, text in walk.files:
        (tree / path).write_text(text, "utf-8")


def run(tree: Path, *arguments: str) -> None:
    """Run Python in the copy; its packages shadow the installed ones."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env={"PYTHONPATH": str(tree), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("walk", walks(), ids=lambda walk: walk.title)
def test_a_walk_can_be_carried_out(walk: Walk, tmp_path: Path) -> None:
    """It touches no more files than it may, shows what it says, and leaves all recordings green."""
    assert len(walk.touched) <= MOST_FILES[walk.title], sorted(walk.touched)
    carry_out(walk, tmp_path)
    for number, check in enumerate(walk.checks):
        (tmp_path / f"check_{number}.py").write_text(check, "utf-8")
        if named := re.findall(r"def (test_\w+)", check):  # an event's docstring names its test
            (tmp_path / "tests" / f"{named[0]}.py").write_text(check, "utf-8")
        run(tmp_path, f"check_{number}.py")
    run(tmp_path, "-m", "cli", "replay", "--quiet", "fixtures")
    if "events/inputs.py" in walk.touched:
        run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".", *EVENT_TESTS)


def test_every_walk_has_a_limit() -> None:
    """And shows something."""
    assert [walk.title for walk in walks()] == [*MOST_FILES]
    assert all(walk.checks and walk.touched for walk in walks())
