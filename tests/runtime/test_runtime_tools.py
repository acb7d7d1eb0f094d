"""Tool calls over a real Redis: committed before they run, kept across interruptions, owners and snapshots."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from events.derived import EventRejected, UserInterrupted
from events.inputs import BargeIn, SessionResumed, SttFinal
from events.journal import ModelResponded, ToolCalled, ToolReturned
from orchestrator.runtime.live_session import LiveSession
from orchestrator.services.ports import Request
from tests.runtime.conftest import MakeNode
from tests.runtime.support import Running, StubClient, soon


class Agent:
    """Asks its model, says a sentence, books a table, and tells the result; the model and the table may take long."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.asked: list[str] = []
        self.booked: list[tuple[str, str]] = []
        self.may_book, self.may_tell = asyncio.Event(), asyncio.Event()

    async def stream(self, request: Request) -> AsyncGenerator[str, None]:
        self.requests.append(request)
        first = await request.ask_model(self._model, "what to do")
        yield first["say"]
        booked = await request.once("book", self.book, first["day"])
        yield await request.ask_model(self._model, f"table {booked}")

    async def _model(self, about: str) -> Any:
        self.asked.append(about)
        if about == "what to do":
            return {"say": "Let me book that. ", "day": "Friday"}
        await self.may_tell.wait()
        return f"You have {about}."

    async def book(self, day: str, idempotency_key: str) -> int:
        self.booked.append((day, idempotency_key))
        await self.may_book.wait()
        return 7


async def asks(running: Running, agent: Agent) -> LiveSession:
    live = await running.listening()
    running.stubs.stream = agent.stream  # type: ignore[method-assign]
    running.node.report(SttFinal(session_id=live.session_id, text="book a table", via="text"))
    return live


async def test_a_tool_in_the_middle_of_an_answer(running: Running) -> None:
    """What it says before the call is said at once; the call is in the log before it runs."""
    agent = Agent()
    live = await asks(running, agent)
    await soon(lambda: bool(agent.booked))
    called = await running.watch.event(live.session_id, ToolCalled)
    assert (called.name, called.arguments) == ("book", '{"day":"Friday"}')
    await soon(lambda: bool(running.clients[0].shown))
    assert running.clients[0].shown == ["Let me book that."]
    agent.may_book.set()
    agent.may_tell.set()
    await running.watch.phase(live.session_id, "LISTENING", 2)
    assert running.clients[0].shown == ["Let me book that.", " You have table 7."]
    assert len(running.watch.all(live.session_id, ModelResponded)) == 2


async def test_a_result_that_comes_after_an_interruption_is_in_the_conversation(running: Running) -> None:
    """Neither lost nor asked for twice; the agent that is asked next knows that the call still ran."""
    agent = Agent()
    live = await asks(running, agent)
    await soon(lambda: bool(agent.booked))
    running.node.report(BargeIn(session_id=live.session_id))
    await running.watch.event(live.session_id, UserInterrupted)
    running.node.report(SttFinal(session_id=live.session_id, text="thanks", via="text"))
    await soon(lambda: len(agent.requests) == 2)
    (tool,) = [line for line in agent.requests[1].conversation if line.call]
    assert (tool.role, tool.text) == ("tool", "")
    agent.may_book.set()
    await running.watch.event(live.session_id, ToolReturned)
    agent.may_tell.set()
    await running.watch.phase(live.session_id, "LISTENING", 3)
    assert len(agent.booked) == 1  # the second answer asked for the same booking: it is the one that ran
    running.node.report(SttFinal(session_id=live.session_id, text="so?", via="text"))
    await soon(lambda: len(agent.requests) == 3)
    told = [line.text for line in agent.requests[2].conversation if line.role == "tool"]
    assert told == ["7"]
    assert running.watch.all(live.session_id, EventRejected) == []


async def returns(second: Running, live: LiveSession, agent: Agent) -> StubClient:
    """The client comes back to the node that has the session now."""
    second.stubs.stream = agent.stream  # type: ignore[method-assign]
    await second.watch.event(live.session_id, SessionResumed)
    back, client = second.node.session(live.session_id), StubClient("browser-2")
    assert back is not None
    second.node.connect_client(back, client)
    return client


async def test_another_node_repeats_nothing_recorded(make_node: MakeNode) -> None:
    """Lost while the second response of the model was on its way: one request is made again, and no call."""
    first, agent = await make_node(lease_ms=60_000), Agent()
    live = await asks(first, agent)
    agent.may_book.set()
    await soon(lambda: len(agent.asked) == 2)
    await first.node.stop()
    second, other = await make_node(), Agent()
    other.may_tell.set()
    client = await returns(second, live, other)
    await second.watch.phase(live.session_id, "LISTENING", 1)
    assert (other.asked, other.booked) == (["table 7"], [])
    assert client.shown[-1].strip() == "You have table 7."


async def test_a_node_that_stops_waits_for_a_call(make_node: MakeNode) -> None:
    """Its result is there for the next owner, which does not run it again."""
    first, agent = await make_node(lease_ms=60_000), Agent()
    live = await asks(first, agent)
    await soon(lambda: bool(agent.booked))
    stopping = asyncio.create_task(first.node.stop())
    await soon(lambda: not first.node.ready)
    await asyncio.sleep(0.1)  # it gives its shards up meanwhile
    agent.may_book.set()
    await stopping
    second, other = await make_node(), Agent()
    other.may_tell.set()
    client = await returns(second, live, other)
    await second.watch.phase(live.session_id, "LISTENING", 1)
    assert (other.asked, other.booked) == (["table 7"], [])
    assert client.shown[-1].strip() == "You have table 7."


async def test_a_snapshot_in_the_middle_of_an_answer_loses_no_fact(make_node: MakeNode) -> None:
    """Its reader gets the facts from the log."""
    first, agent = await make_node(lease_ms=60_000), Agent()
    live = await asks(first, agent)
    agent.may_book.set()
    await soon(lambda: len(agent.asked) == 2)
    live.snapshot_version = -1_000  # one is due
    first.node.report(BargeIn(session_id=live.session_id, playback_id="none"))
    await soon(lambda: live.snapshot_version > 0)
    assert 0 < live.state.found.facts_from < live.snapshot_version
    await first.node.stop()
    second, other = await make_node(), Agent()
    other.may_tell.set()
    await returns(second, live, other)
    await second.watch.phase(live.session_id, "LISTENING", 1)
    assert (other.asked, other.booked) == (["table 7"], [])


async def test_no_shard_waits_for_a_tool_of_another(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis was restarted, and a tool runs on: the other sessions go on meanwhile."""
    monkeypatch.setattr("orchestrator.runtime.live_session.END_S", 60.0)
    running, agent = await make_node(lease_ms=60_000), Agent()
    slow, other = await running.two_listening(StubClient())
    running.stubs.stream = agent.stream  # type: ignore[method-assign]
    running.node.report(SttFinal(session_id=slow.session_id, text="book a table", via="text"))
    await soon(lambda: bool(agent.booked))
    running.lose_everything()
    await running.watch.event(other.session_id, SessionResumed)
    await soon(lambda: len(running.node.shards) == 3)
    assert not running.clients[0].sent_away
    assert not running.watch.all(slow.session_id, SessionResumed)
    agent.may_book.set()
    await running.watch.event(slow.session_id, SessionResumed)


async def test_a_client_is_sent_away_without_a_second_wait_for_a_tool(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The tool had its time before the lease was released."""
    monkeypatch.setattr("orchestrator.runtime.live_session.END_S", 0.05)
    first, agent = await make_node(), Agent()
    await asks(first, agent)
    await soon(lambda: bool(agent.booked))
    await first.node.stop()
    assert first.clients[0].sent_away
    assert caplog.text.count("does not end; going on without it") == 1
    agent.may_book.set()
