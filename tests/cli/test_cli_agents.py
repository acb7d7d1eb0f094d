"""`orch serve my_agent:agent`: agents of all kinds, mistakes, and a change in the middle of a conversation."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from cli_agents_sample import MODULE

from cli.agents import load, service_of
from cli.terminal import UsageError
from orchestrator import Orchestrator, Settings
from orchestrator.gateway.access.credentials import PROTOCOL
from tests.cli.service import ORCH, Serve, environment, orch_process


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules, as the working directory; what is imported from it is forgotten."""
    for name, text in MODULE.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in MODULE:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "name", ["agent", "plain", "Shop", "shop", "make", "make_later", "make_service", "service", "shop.answer"]
)
async def test_a_function_an_object_a_factory_or_a_service_is_an_agent(project: Path, name: str) -> None:
    """Each of them answers."""
    service = await service_of(load(f"fine_agent:{name}"), name, Settings(port=0))
    assert isinstance(service, Orchestrator)
    assert (service.settings.port, service.settings.max_sessions) == (0, 3 if name.endswith("service") else 20)


@pytest.mark.parametrize(("host", "is_shown"), [("0.0.0.0", False), ("127.0.0.1", True)])
def test_the_words_of_callers_are_masked_where_others_can_reach_a_service_of_ones_own(
    project: Path, host: str, *, is_shown: bool
) -> None:
    """The command line opens a service whose program was made for this machine."""
    env = environment(project, ORCH_AUTH="none")
    served = Serve(env, 0, "--host", host, "fine_agent:service", cwd=project)
    try:
        url = served.url.replace("0.0.0.0", "127.0.0.1")
        chat = orch_process("chat", "--url", url, env=env, stdin="my knee hurts\n")
        assert "You said: my knee hurts" in chat.stdout
    finally:
        served.stop()
    assert ("knee" in served.stdout + served.stderr) == is_shown
    assert "THINKING" in served.stdout


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_service_whose_port_never_opens_can_be_stopped(project: Path, by: signal.Signals) -> None:
    """Such as an agent that waits for a tool server."""
    process = subprocess.Popen(
        [*ORCH, "serve", "--port", "0", "hanging_agent:agent"],
        cwd=project,
        env=environment(project),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert any("opening" in line for line in process.stderr)
    process.send_signal(by)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "stopped before it was ready\n")


def test_the_name_agent_can_be_left_out(project: Path) -> None:
    """As in `orch serve fine_agent`."""
    assert load("fine_agent") is load("fine_agent:agent")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere:agent", r"no module 'nowhere' in .*; start orch where nowhere.py is"),
        ("fine_agent.py:shop", "'fine_agent.py:shop' names a file; name the module: fine_agent:shop"),
        ("fine_agent:nobody", "'fine_agent' has no 'nobody'; it has .*Shop"),
        ("wrong_syntax:agent", r"wrong_syntax.py, line 2: "),
        ("wrong_import:agent", r"wrong_import.py, line 1: ModuleNotFoundError: No module named 'no_such_library'"),
        ("wrong_name:agent", r"wrong_name.py, line 3: NameError: name 'ansewr' is not defined"),
        ("wrong_things:number", "wrong_things:number: 5 cannot be an answer service: give a function of one text"),
        ("wrong_things:two", "it must take one argument, the text"),
        ("wrong_things:breaks", r"wrong_things.py, line 7: RuntimeError: no key"),
        ("wrong_things:nothing", "wrong_things:nothing gives None: expected an answer function"),
    ],
)
async def test_a_mistake_is_told_in_one_sentence(project: Path, name: str, words: str) -> None:
    """With the line of the user's file where there is one."""
    with pytest.raises(UsageError, match=words) as caught:
        await service_of(load(name), name, Settings(port=0))
    assert "\n" not in str(caught.value)


def test_a_mistake_ends_the_command(project: Path) -> None:
    """With one line, and the code of something unusable."""
    done = subprocess.run(
        [*ORCH, "serve", "wrong_name:agent"],
        capture_output=True,
        text=True,
        env=environment(project / "d"),
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.search(r"^✗ orch serve cannot start: 'wrong_name' cannot be imported: .*line 3: NameError", line)


async def answered(
    http: aiohttp.ClientSession, url: str, ids: dict[str, str], words: str
) -> tuple[str, dict[str, str]]:
    """Say something in a conversation, a new one where `ids` is empty; the answer to it, and the conversation's ids.

    Looks for the conversation while the service starts again; answers to earlier words may come first.
    """
    while True:
        try:
            shown = [f"resume.{ids['resume_token']}"] if ids else []
            asked = {"session_id": ids["session_id"]} if ids else {}
            async with http.ws_connect(f"{url}/orchestrate", params=asked, protocols=[PROTOCOL, *shown]) as socket:
                async for message in socket:
                    told = message.json()
                    if told["type"] == "session":
                        ids = {name: told[name] for name in ("session_id", "resume_token")}
                        await socket.send_json({"type": "text", "text": words, "message_id": os.urandom(8).hex()})
                    elif told["type"] == "reply" and words in told["text"]:
                        return told["text"], ids
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)  # not ready yet


@pytest.mark.calls
async def test_a_conversation_goes_on_with_the_changed_agent(project: Path) -> None:
    """`--reload` in the middle of it: the next answer of the same conversation is the new agent's."""
    env = environment(project / "data") | {"ORCH_AUTH": "none"}
    (project / ".env").write_text("MY_KEY=from the file\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = Serve(env, port, "fine_agent:make_service", "--reload", cwd=project)
    try:
        async with aiohttp.ClientSession() as http, asyncio.timeout(90):
            said, ids = await answered(http, service.url, {}, "one")
            assert said == "You said: one. from the file"
            file = project / "fine_agent.py"
            file.write_text(file.read_text().replace("You said", "New here"))
            _, again = await answered(http, service.url, ids, "two")  # of the old agent, or of the new one
            await asyncio.to_thread(service.ready_again)
            said, at_last = await answered(http, service.url, again, "three")
            assert said.startswith("New here: ")
            assert ids["session_id"] == again["session_id"] == at_last["session_id"]
    finally:
        assert service.stop() == 0
    assert "fine_agent.py changed: starting again" in service.stderr
