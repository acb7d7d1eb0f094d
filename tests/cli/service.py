"""Runs the `orch` command, in this process or in one of its own, and an `orch serve` that is stopped by its id."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from cli.main import app

ROOT = Path(__file__).parents[2]
ORCH = [sys.executable, "-c", "from cli.main import main; main()"]


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """Ours, with a data directory of its own and no other setting of orch."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ORCH_")}
    return kept | {"ORCH_DATA_DIR": str(data_dir), "PYTHONPATH": str(ROOT)} | settings


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


def orch_process(*arguments: str, env: dict[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, to its end."""
    return subprocess.run(
        [*ORCH, *arguments], env=env, input=stdin, capture_output=True, text=True, timeout=30, check=False
    )


class Serve:
    """`orch serve` on a free port."""

    def __init__(self, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [*ORCH, "serve", "--port", "0"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
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

    def stop(self, by: signal.Signals = signal.SIGINT) -> int:
        """As Ctrl-C does; the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(by)
            out, err = self._process.communicate(timeout=30)
            self.stdout, self.stderr = out, self.stderr + err
        return self._process.returncode

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate(timeout=30)
