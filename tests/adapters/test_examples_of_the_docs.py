"""The examples of docs/services.md and of the pages for those who come from Pipecat and LiveKit Agents, executed."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Answer, Intent, Orchestrator, Request
from orchestrator.policy_file import read_policy
from orchestrator.services.text_functions import answer_port, whole_answer
from tests.adapters.chat_peer import ChatPeer
from tests.adapters.conftest import Serve
from tests.cli.service import ROOT

pytest.importorskip("pydantic_ai", reason="the dependency group `adapters` is not installed")
pytest.importorskip("livekit.agents", reason="the dependency group `adapters` is not installed")

LARGE_TEXT = "The large model answers."


def examples(page: str, language: str = "python") -> list[str]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
async def peer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> ChatPeer:
    """A local model, and the keys that the vendors' objects look for."""
    peer = ChatPeer()
    monkeypatch.setenv("OPENAI_BASE_URL", f"{await serve(peer.app())}/v1")
    for vendor in ("OPENAI", "DEEPGRAM"):
        monkeypatch.setenv(f"{vendor}_API_KEY", "key")
    monkeypatch.setenv("ELEVEN_API_KEY", "key")
    return peer


def executed(page: str, **stand_ins: Any) -> dict[str, Any]:
    """Run the examples of a page in order, in one namespace."""
    names: dict[str, Any] = dict(stand_ins)
    for example in examples(page):
        exec(compile(example, page, "exec", dont_inherit=True), names)
    return names


async def test_the_agent_for_those_who_come_from_pipecat(peer: ChatPeer) -> None:
    """It answers in tokens, in the context of the conversation."""
    names = executed("coming-from-pipecat.md")
    assert isinstance(names["agent"](), Orchestrator)
    pieces = [piece async for piece in answer_port(names["answer"]).stream(Request("hello"))]
    assert "".join(map(str, pieces)) == "Hello. How can I help?"
    assert len(pieces) > 3
    assert peer.roles == [["system", "user"]]


async def test_the_agent_for_those_who_come_from_livekit(peer: ChatPeer) -> None:
    """Plugins are ports, and its test passes."""
    names = executed("coming-from-livekit.md")
    assert isinstance(names["agent"](), Orchestrator)
    await asyncio.to_thread(names["test_it_looks_orders_up"])
    assert peer.roles[1] == ["system", "user", "assistant", "user", "assistant", "tool"]


@pytest.mark.parametrize("page", ["coming-from-pipecat.md", "coming-from-livekit.md"])
def test_the_policies_of_the_pages_are_policies(page: str, tmp_path: Path) -> None:
    """Without an unknown field."""
    (example,) = examples(page, "yaml")
    (tmp_path / "policy.yaml").write_text(example)
    assert read_policy(tmp_path / "policy.yaml").intent.skip


async def test_the_examples_of_the_services_run(peer: ChatPeer) -> None:
    """All of them, with stand-ins for the reader's own engines."""

    class Engine:
        def stream(self, _: str, assistant_prefix: str = "") -> Any:
            return tokens() if assistant_prefix is not None else iter([bytes(3200)])

    async def tokens() -> Any:
        yield "from the model"

    async def large_model(_: str) -> str:
        return LARGE_TEXT

    names = executed(
        "services.md",
        Request=Request,
        Intent=Intent,
        Answer=Answer,
        Iterator=Iterator,
        my_engine=Engine(),
        my_model=lambda pcm: f"{len(pcm)} bytes",
        large_model=large_model,
        model=Engine(),
    )
    assert isinstance(names["service"], Orchestrator)
    assert (await whole_answer(answer_port(names["answer"]), Request("x"))).answer == "from the model"
    assert (await whole_answer(answer_port(names["books"]), Request("x"))).answer == "You have table 7."
    assert (await whole_answer(answer_port(names["small_model"]), Request("x"))).answer == "You said x."
    assert not peer.asked
