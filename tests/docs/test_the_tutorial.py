"""docs/replay.md, run as it stands: a live call, an export, a changed policy, a divergence, why, and a test of it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.service import ROOT, Serve, environment

PAGE = (ROOT / "docs" / "replay.md").read_text()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    service = Serve(environment(tmp_path / "data"))
    yield service
    assert service.stop() == 0, service.stderr


def commands() -> list[tuple[str, str]]:
    """Each command of the page, and what it prints there."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts)]


def matches(shown: str, printed: str) -> bool:
    """Whether it printed what is shown; `…` stands for anything."""
    return re.fullmatch(re.escape(shown.strip()).replace("…", ".*?"), printed.strip(), re.DOTALL) is not None


@pytest.mark.calls
def test_every_command_of_the_tutorial_does_what_it_shows(serve: Serve, tmp_path: Path) -> None:
    """In one folder, one after the other, as a reader would."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("orch", "cli"), ("pytest", "pytest")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        program.chmod(0o755)
    here = tmp_path / "project"
    here.mkdir()
    (here / "pytest.ini").write_text("[pytest]\n")
    env = environment(tmp_path / "data") | {"PATH": f"{programs}:{os.environ['PATH']}"}
    assert len(commands()) > 12
    for command, shown in commands():
        code = re.search(r"\(exit code (\d+)\)\n", shown)
        done = subprocess.run(
            ["bash", "-c", command.replace("orch chat", f"orch chat --url {serve.url}")],
            cwd=here,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == (int(code[1]) if code else 0), f"{command}\n{done.stdout}"
        expected = shown.replace(code[0], "") if code else shown
        assert matches(expected, done.stdout), f"{command}\n--- shown\n{expected}\n--- printed\n{done.stdout}"
