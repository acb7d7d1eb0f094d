"""`orch new NAME`: writes a project with an agent, its policy, a test and a Dockerfile, which works at once."""

import re
from pathlib import Path

from cli.exits import OK
from cli.terminal import UsageError, naming, say

_FILES = Path(__file__).parent / "project"
_HIDDEN = ("dockerignore", "env", "gitignore")
"""Files whose names begin with a dot in the project."""
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,60}[A-Za-z0-9])?")


def run(name: str) -> int:
    """Write the folder NAME. Raises UsageError if it cannot be the name of a package, or if it has files already."""
    folder = Path(name)
    if not _NAME.fullmatch(folder.name):
        raise UsageError(f"{name!r} cannot be the name of a project: letters, digits, and - _ . between them")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{name} exists already; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(_FILES.iterdir()):
        if file.is_file():
            path = folder / (f".{file.name}" if file.name in _HIDDEN else file.name)
            with naming(str(path)):
                path.write_text(file.read_text("utf-8").replace("NAME", folder.name.lower()), encoding="utf-8")
    say(
        f"{name} is there. Next:\n  cd {name}\n  orch serve agent --reload\n"
        "and in another terminal: orch chat, pytest, or the page that orch serve names"
    )
    return OK
