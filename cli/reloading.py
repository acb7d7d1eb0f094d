"""Runs `orch serve` in a process of its own, and starts it again when a file of the agent changes."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from watchfiles import Change, PythonFilter, watch
from watchfiles.main import FileChange

from cli.exits import OK
from cli.terminal import say
from orchestrator.settings import Settings, SettingsError

_SUFFIXES = (".env", ".json", ".md", ".toml", ".yaml", ".yml")
_STOP_WITHIN_S = 20.0
"""To hand over calls and stop; then the process is killed."""


class AgentFiles(PythonFilter):
    """Python files, policies, content and `.env`; nothing in hidden folders, in those of tools, or of orch's data."""

    ignore_dirs = (*PythonFilter.ignore_dirs, "build", "dist", "venv")

    def __init__(self) -> None:
        super().__init__(extra_extensions=_SUFFIXES)

    def __call__(self, change: Change, path: str) -> bool:
        """Whether a change starts the service again. Only folders within the project count, not those above it."""
        inside = Path(path).relative_to(Path.cwd())
        is_hidden = any(part.startswith(".") for part in inside.parts[:-1])
        return not is_hidden and super().__call__(change, str(inside)) and not _is_data(Path(path))


def _is_data(path: Path) -> bool:
    """Whether a file is in the data directory, if that is a folder within the project."""
    with suppress(SettingsError):  # the service says so, and starts again when the setting is corrected
        folder = Settings.from_environment().data_dir.resolve()
        return path.is_relative_to(folder) and not Path.cwd().is_relative_to(folder)
    return False


def serve_and_reload(arguments: Sequence[str]) -> int:
    """Run `orch serve ARGUMENTS` until Ctrl-C. A process that ended by a mistake starts again at the next change."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = _start(arguments)
    try:
        for changes in watch(Path.cwd(), watch_filter=AgentFiles()):
            _tell(changes)
            _stop(process)
            process = _start(arguments)
    except KeyboardInterrupt:
        return OK
    finally:
        _stop(process)
    return OK


def _start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", "from cli.main import main; main()", "serve", *arguments]
    return subprocess.Popen(command)  # noqa: S603 - it is the command line that the user wrote


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the service as Ctrl-C does. It gets the same time at a change and at the end."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        say(f"the service did not stop within {_STOP_WITHIN_S:g} s and is killed")
        process.kill()
        process.wait()


def _tell(changes: set[FileChange]) -> None:
    names = sorted({str(Path(path).relative_to(Path.cwd())) for _, path in changes})
    say(f"{', '.join(names)} changed: starting again")
