"""docs/build-an-agent.md, carried out: its files, its commands and what they print, against a local model."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import Orchestrator
from tests.adapters.chat_peer import ChatPeer
from tests.adapters.conftest import Serve as ServeApp
from tests.cli.service import ROOT, Serve, environment
from tests.docs.test_the_tutorial import matches

pytest.importorskip("pydantic_ai", reason="the dependency group `adapters` is not installed")

PAGE = (ROOT / "docs" / "build-an-agent.md").read_text("utf-8")
PARTS = re.findall(r"^```(console|\w+ file=(?:\S+))\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILES = {what.partition("file=")[2]: text for what, text in PARTS if what != "console"}


def commands() -> list[tuple[str, str]]:
    """Each command of the page, and what it prints there."""
    blocks = [text for what, text in PARTS if what == "console"]
    return [(command, shown) for command, _, shown in (block.removeprefix("$ ").partition("\n") for block in blocks)]


def test_the_agent_and_its_test_are_as_short_as_promised() -> None:
    """At most 15 lines with one tool, and at most 6."""
    assert sum(bool(line.strip()) for line in FILES["shop/agent.py"].splitlines()) <= 15
    assert sum(bool(line.strip()) for line in FILES["shop/test_agent.py"].splitlines()) <= 6


def test_the_service_with_a_second_choice_is_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last example: an agent with dependencies, and a function for the times when it is down."""
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    agent: dict[str, Any] = {}
    exec(FILES["shop/agent.py"], agent)
    monkeypatch.setitem(sys.modules, "agent", SimpleNamespace(**agent))
    names: dict[str, Any] = {}
    exec(FILES["shop/shop.py"], names)
    assert isinstance(names["service"](), Orchestrator)


@pytest.mark.calls
async def test_every_step_of_the_page_does_what_it_shows(serve: ServeApp, tmp_path: Path) -> None:
    """In one folder, one after the other, as a reader would."""
    peer = ChatPeer()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("orch", "cli"), ("pytest", "pytest")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        program.chmod(0o755)
    env = environment(tmp_path / "unused") | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "OPENAI_API_KEY": "key",
        "OPENAI_BASE_URL": f"{await serve(peer.app())}/v1",
    }
    del env["ORCH_DATA_DIR"]
    here = tmp_path / "here"
    here.mkdir()
    await asyncio.to_thread(follow, here, env)
    assert [request["model"] for request in peer.asked] == ["gpt-5-mini"] * 4  # two questions with a call of the tool
    assert all("You answer the phone of a shop." in str(request["messages"][0]) for request in peer.asked)
    docker = (here / "shop" / "Dockerfile").read_text()
    assert 'pip install --no-cache-dir "orch-voice[demo,agents]" "pydantic-ai-slim[openai]"' in docker
    (command,) = re.findall(r"^CMD (\[.*\])$", docker, re.MULTILINE)
    assert json.loads(command)[:3] == ["orch", "serve", "agent"]


def follow(here: Path, env: dict[str, str]) -> None:
    """Run the commands of the page, with its files once there is a project."""
    service: Serve | None = None
    try:
        for command, shown in commands():
            if "orch serve" in command:
                assert command == "cd shop && orch serve agent --reload"  # --reload: tests/cli/test_cli_agents.py
                service = Serve(env, 0, "agent", cwd=here / "shop")
                continue
            run = command.replace("orch chat", f"orch chat --url {service.url}") if service else command
            done = subprocess.run(["bash", "-c", run], cwd=here, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            assert matches(shown, done.stdout), f"{command}\n--- shown\n{shown}\n--- printed\n{done.stdout}"
            if command.startswith("orch new"):
                for name, text in FILES.items():
                    (here / name).write_text(text)
    finally:
        if service is not None:
            assert service.stop() == 0, service.stderr
