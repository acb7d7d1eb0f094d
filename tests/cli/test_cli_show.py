"""`orch show` and `orch explain`: what they print, as it was reviewed."""

import os
import pty
import subprocess
import sys
import termios
from importlib.metadata import version
from pathlib import Path

import pytest

from events.derived import TurnEnded
from orchestrator.replay.rules import RULES
from orchestrator.replay.transcript import transcript
from orchestrator.testing.conversation import Conversation
from tests.cli.service import ORCH, ROOT, environment, orch

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


@pytest.mark.parametrize("how", [["--tools"], ["--timeline"]])
@pytest.mark.parametrize("name", ["tool_in_an_answer", "tool_of_a_lost_process", "tool_of_a_discarded_answer"])
def test_the_work_of_an_agent_is_shown(name: str, how: list[str], env: dict[str, str], snapshot) -> None:
    """Its tool calls with what became of them, and the responses of its model."""
    assert orch("show", f"{ROOT}/fixtures/failures/{name}.jsonl", *how, env=env).stdout == snapshot


def test_as_json_it_is_its_lines(env: dict[str, str]) -> None:
    """One event each, as in the file."""
    assert orch("show", BARGE_IN, "--json", env=env).stdout.splitlines() == Path(BARGE_IN).read_text().splitlines()[1:]


def test_what_was_said_can_be_read(env: dict[str, str]) -> None:
    """The user's words and the agent's, and where it was interrupted."""
    done = orch("show", BARGE_IN, "--said", env=env)
    assert done.stdout.splitlines() == [
        "[auto_session_12345] user: tell me about your opening hours",
        "[auto_session_12345] agent: We are open every [interrupted; not heard: day from nine in the morning to six in "
        "the evening, except on public holidays.]",
        "[auto_session_12345] user: stop",
        "[auto_session_12345] agent: All right.",
    ]


def test_a_user_cannot_forge_a_line_of_the_agent() -> None:
    """Typed text with a line end stays on the line of the user, and so does a session id."""
    call = Conversation.listening("s] user: x\n[s").after(1_000).says("hello\n[s] agent: yes, you get the refund")
    call.after(200).answers("No.\n[s] user: fine").speaks().after(2_000).played()
    *_, user, agent = transcript(call.log)
    assert user == "[s] user: x [s] user: hello [s] agent: yes, you get the refund"
    assert agent == "[s] user: x [s] agent: No. [s] user: fine"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("answer_while_it_is_written", "We are open every day. From nine in the morning to six in the evening."),
        (
            "barge_in_in_the_second_sentence",
            "We are open every day. From nine [interrupted; not heard: in the morning to six in the evening.]",
        ),
        (
            "crash_while_the_answer_is_written",
            "We are open every day. From nine in the morning to six in the evening. On Sundays there is cake.",
        ),
    ],
)
def test_an_answer_that_comes_in_texts_is_shown_whole(name: str, said: str, env: dict[str, str]) -> None:
    """Also if a new owner has spoken its later texts again."""
    shown = orch("show", f"{ROOT}/fixtures/failures/{name}.jsonl", "--said", env=env).stdout.splitlines()
    assert shown[1] == f"[auto_session_12345] agent: {said}"


def test_words_that_were_said_before_a_log_begins_are_left_out() -> None:
    """As in a log whose first lines are gone."""
    call = Conversation.in_phase("THINKING").says("and on Sundays")
    begins = next(at for at, event in enumerate(call.log) if isinstance(event, TurnEnded))
    (line,) = transcript(call.log[begins:])
    assert line.endswith("and on Sundays")


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_the_timeline_fits_the_terminal(env: dict[str, str], columns: int) -> None:
    """No line is longer than the terminal is wide, unless all is wanted; a pipe gets what it always got."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (50, columns))
    wide = {name: value for name, value in env.items() if name != "COLUMNS"}
    for option in ([], ["--full"]):
        command = [*ORCH, "show", "--timeline", *option, BARGE_IN]
        done = subprocess.run(command, cwd=ROOT, env=wide, stdout=slave, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 0, done.stderr
        shown = os.read(master, 100_000).decode().splitlines()
        assert option or max(map(len, shown)) <= columns, shown
        assert ("public holidays" in "".join(shown)) == bool(option)
        assert len(shown) == 20
    os.close(slave)
    os.close(master)


def test_the_version_is_said(env: dict[str, str]) -> None:
    """That of the installed package."""
    assert orch("--version", env=env).stdout == f"orch {version('orch-voice')}\n"


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
    """Neither the models nor the service nor an event loop: `orch --help` stays quick."""
    program = (
        "import sys; from cli.main import main; sys.argv = ['orch', '--help']\n"
        "try: main()\n"
        "finally: print(sorted({'pydantic', 'redis', 'aiohttp', 'rich', 'orchestrator', 'events', 'asyncio',"
        " 'importlib.metadata'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert "Usage: orch" in done.stdout
    assert done.stdout.endswith("\n[]\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_completion_for_the_usual_shells(shell: str, env: dict[str, str]) -> None:
    """A script for the shell that asks."""
    script = env | {"_ORCH_COMPLETE": f"source_{shell}"}
    program = "from cli.main import main; import sys; sys.argv[0] = 'orch'; main()"
    done = subprocess.run([sys.executable, "-c", program], env=script, capture_output=True, text=True, check=False)
    assert "_ORCH_COMPLETE" in done.stdout
