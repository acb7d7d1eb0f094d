"""`orch show` and `orch explain`: what they print, as it was reviewed."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.replay.rules import RULES
from tests.cli.service import ROOT, environment, orch

BARGE_IN = str(ROOT / "fixtures" / "barge_in.jsonl")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, ORCH_REDIS_URL="unix:///nonexistent/redis.sock")


@pytest.mark.parametrize("how", [[], ["--detailed"], ["--timeline"], ["--timeline", "--full"]])
def test_a_conversation_is_shown(how: list[str], env: dict[str, str], snapshot) -> None:
    """As a golden log, in detail, in lanes; what is cut says how much."""
    done = orch("show", BARGE_IN, *how, env=env)
    assert done.exit_code == 0
    assert done.stdout == snapshot


def test_as_json_it_is_its_lines(env: dict[str, str]) -> None:
    """One event each, as in the file."""
    assert orch("show", BARGE_IN, "--json", env=env).stdout.splitlines() == Path(BARGE_IN).read_text().splitlines()[1:]


def test_inputs_alone_are_completed(tmp_path: Path, env: dict[str, str]) -> None:
    """A recording that a person wrote is shown as what it leads to today."""
    file = tmp_path / "by_hand.jsonl"
    file.write_text(
        '{"derived": false, "format": "orch.recording", "story": "By hand."}\n'
        '{"type": "SESSION_OPENED", "session_id": "s", "policy": {}}\n'
        '{"type": "CLIENT_CONNECTED", "session_id": "s", "client_id": "me", "at_us": 1000}\n'
    )
    assert orch("show", str(file), env=env).stdout == "[s] 🟢 IDLE\n[s] 🔵 LISTENING (client_connected)\n"


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_explained(rule: str, env: dict[str, str], snapshot) -> None:
    """Meaning, causes, what to do."""
    assert orch("explain", rule.lower(), env=env).stdout == snapshot


def test_rules_are_listed_and_typing_errors_understood(env: dict[str, str]) -> None:
    """Without an argument all of them; a wrong one is answered with the nearest."""
    assert [line.split()[0] for line in orch("explain", env=env).stdout.splitlines()] == [*RULES]
    done = orch("explain", "ORCH101", env=env)
    assert done.exit_code == 3
    assert "did you mean ORCH10" in done.stderr


def test_help_loads_nothing_heavy(env: dict[str, str]) -> None:
    """Neither the models nor the service: what makes `orch --help` quick."""
    program = (
        "import sys; from cli.main import app; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "print(sorted({'pydantic', 'redis', 'aiohttp', 'rich', 'orchestrator', 'events'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_completion_for_the_usual_shells(shell: str, env: dict[str, str]) -> None:
    """A script for the shell that asks."""
    script = env | {"_ORCH_COMPLETE": f"source_{shell}"}
    program = "from cli.main import main; import sys; sys.argv[0] = 'orch'; main()"
    done = subprocess.run([sys.executable, "-c", program], env=script, capture_output=True, text=True, check=False)
    assert "_ORCH_COMPLETE" in done.stdout
