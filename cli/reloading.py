"""Runs `orch serve` in a process of its own, and starts it again when a file of the agent changes."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from watchfiles import PythonFilter, run_process
from watchfiles.main import FileChange

from cli.exits import OK
from cli.terminal import say

_SUFFIXES = (".env", ".json", ".md", ".toml", ".yaml", ".yml")
_STOP_WITHIN_S = 20
"""To hand over calls and stop; then the process is killed."""


class AgentFiles(PythonFilter):
    """Python files, policies, content and `.env`; nothing in hidden folders, in those of tools, or of orch's data."""

    ignore_dirs = (*PythonFilter.ignore_dirs, ".ruff_cache", ".uv", "build", "dist", "venv")

    def __init__(self) -> None:
        super().__init__(extra_extensions=_SUFFIXES)


def serve_and_reload(arguments: Sequence[str]) -> int:
    """Run `orch serve ARGUMENTS` until Ctrl-C. A process that ended by a mistake starts again at the next change."""
    command = shlex.join([sys.executable, "-P", "-c", "from cli.main import main; main()", "serve", *arguments])
    run_process(
        Path.cwd(),
        target=command,
        target_type="command",
        callback=_tell,
        watch_filter=AgentFiles(),
        sigint_timeout=_STOP_WITHIN_S,
    )
    return OK


def _tell(changes: set[FileChange]) -> None:
    names = sorted({str(Path(path).relative_to(Path.cwd())) for _, path in changes})
    say(f"{', '.join(names)} changed: starting again")
