"""Runs the `orch` command, in this process or in one of its own, and an `orch serve` that is stopped by its id."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from cli.main import app

ROOT = Path(__file__).parents[2]
QUIET = {"ORCH_RECOGNIZER": "domain", "ORCH_VOICE": "espeak"}
ORCH = [sys.executable, "-c", "from cli.main import main; main()"]


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """Ours, with a data directory of its own. Nobody speaks, so the ears and the voice are those that start fastest."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ORCH_")}
    ours = {"ORCH_DATA_DIR": str(data_dir), "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}  # for `ended`
    return kept | ours | QUIET | settings


def orch(*arguments: str, env: dict[str, str]) -> Result:
    """Run a command in this process, as if it were one of its own. What it does not catch is raised."""
    ours = {name: None for name in os.environ if name.startswith("ORCH_")} | env
    handler = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(app, arguments, env=ours)
    signal.signal(
        signal.SIGTERM, handler
    )  # uvloop leaves its own, and the workers of a later `orch replay` never ended
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def orch_process(
    *arguments: str, env: dict[str, str], stdin: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, to its end, in the folder `cwd`."""
    return subprocess.run(
        [*ORCH, *arguments], env=env, input=stdin, cwd=cwd, capture_output=True, text=True, timeout=30, check=False
    )


def ended(process: subprocess.Popen[str], within_s: float = 30) -> tuple[str, str]:
    """What a process with pipes still printed until its end. One that does not end says where each thread stands."""
    try:
        return process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        has_ended = process.poll() is not None
        process.send_signal(signal.SIGABRT)
        if has_ended:
            raise AssertionError("it has ended, but another process still holds its output") from None
        _, errors = process.communicate()
        raise AssertionError(f"it did not end within {within_s:g} s:\n{errors}") from None


class Serve:
    """`orch serve` on a free port, or on a given one; `arguments`: an agent and options, in the folder `cwd`."""

    def __init__(self, env: dict[str, str], port: int = 0, *arguments: str, cwd: Path | None = None) -> None:
        command = [*ORCH, "serve", "--port", str(port), *arguments]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=env, cwd=cwd, stdout=pipe, stderr=pipe, text=True)
        self.stdout = ""
        self.stderr = ""
        self.url = self._read_url()

    def _read_url(self) -> str:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.stderr += line
            if "orch is ready: open " in line:
                return line.partition("orch is ready: open ")[2].split()[0]
        raise AssertionError(f"orch serve ended with {self._process.wait()}:\n{self.stderr}")

    def ready_again(self) -> None:
        """Wait until it has started again (`--reload`)."""
        self.url = self._read_url()

    def stop(self, by: signal.Signals = signal.SIGINT) -> int:
        """As Ctrl-C does; the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(by)
            out, err = ended(self._process)
            self.stdout, self.stderr = out, self.stderr + err
        return self._process.returncode

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate(timeout=30)
