"""A pydantic-ai agent as the answer port, against a local server with OpenAI's chat completions over HTTP and SSE."""

import asyncio
import re
from contextlib import aclosing
from typing import Any

import pytest

from events.journal import ToolCalled, ToolReturned
from orchestrator import rerun
from orchestrator.port_filling import users_ports
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Request
from orchestrator.session.conversation import Line
from tests.adapters.chat_peer import ChatPeer, Says
from tests.adapters.conftest import Serve
from tests.question import Asked

pytest.importorskip("pydantic_ai", reason="the dependency group `adapters` is not installed")

from pydantic_ai import Agent, ModelRetry, ToolReturn
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from orchestrator.adapters.pydantic_agent import PydanticAgent

QUESTION = Request("where is my order", "s", 1, "s:1")


class Shop:
    """An agent with one tool, and what the tool was called with."""

    def __init__(self, url: str) -> None:
        self.calls: list[str] = []
        self.begun, self.may_return = asyncio.Event(), asyncio.Event()
        self.may_return.set()
        self.results: list[Any] = []
        """What the next calls return or raise; then: on its way."""
        model = OpenAIChatModel("local", provider=OpenAIProvider(base_url=f"{url}/v1", api_key="key"))
        self.agent = Agent(model, instructions="Be brief.", tools=[self.order_status])
        (self.port,) = users_ports(answer=self.agent)["answer"]

    async def order_status(self, order_id: str) -> Any:
        """Say where an order is."""
        self.calls.append(order_id)
        self.begun.set()
        await self.may_return.wait()
        result = self.results.pop(0) if self.results else "on its way"
        if isinstance(result, BaseException):
            raise result
        return result

    async def answer(self, request: Request = QUESTION, until: str = "") -> list[str]:
        """The pieces of an answer; closed, as by an interruption, once `until` has come."""
        pieces = []
        async with asyncio.timeout(10), aclosing(self.port.stream(request)) as stream:
            async for piece in stream:
                pieces.append(piece)
                if until and until in piece:
                    break
        return pieces


async def test_the_text_streams_around_a_tool_call(serve: Serve) -> None:
    """In tokens, what comes before the call included, and a blank between the two responses; the conversation is the
    history.
    """
    peer = ChatPeer()
    shop = Shop(await serve(peer.app()))
    lines = (Line("user", "hello"), Line("agent", "Hello. How"))
    pieces = await shop.answer(Request("where is my order", conversation=lines))
    assert "".join(pieces) == "One moment. Your order is on its way. It arrives on Monday."
    assert len(pieces) > 8
    assert shop.calls == ["A17"]
    before = ["system", "user", "assistant", "user"]
    assert peer.roles == [before, [*before, "assistant", "tool"]]
    assert [message["content"] for message in peer.asked[0]["messages"][1:]] == [
        "hello",
        "Hello. How",
        "where is my order",
    ]


async def test_the_first_words_come_before_the_last_is_written(serve: Serve) -> None:
    """The answer is spoken while the model writes."""
    peer = ChatPeer(stops_after=3)
    shop = Shop(await serve(peer.app()))
    async with aclosing(shop.port.stream(Request("hello"))) as stream:
        assert await anext(stream) == "Hello. "
        peer.goes_on.set()
        assert "".join([piece async for piece in stream]) == "How can I help?"


async def test_an_interruption_aborts_the_request_of_the_model(serve: Serve) -> None:
    """At once; the server sees the connection close."""
    peer = ChatPeer(stops_after=3)
    shop = Shop(await serve(peer.app()))
    assert await shop.answer(Request("hello"), until="Hello") == ["Hello. "]
    await asyncio.wait_for(peer.aborted.wait(), 2)


async def test_a_question_asked_again_repeats_nothing_recorded(serve: Serve) -> None:
    """Broken off in the second response by a crash: the next owner makes that request alone, and calls no tool."""
    peer = ChatPeer()
    shop, asked = Shop(await serve(peer.app())), Asked("where is my order")
    await shop.answer(asked.request(), until="Your")
    assert (len(peer.asked), shop.calls) == (2, ["A17"])
    asked.crashes()
    assert "".join(await shop.answer(asked.request())) == "One moment. Your order is on its way. It arrives on Monday."
    assert (len(peer.asked), shop.calls) == (3, ["A17"])
    asked.crashes()
    assert "".join(await shop.answer(asked.request())) == "One moment. Your order is on its way. It arrives on Monday."
    assert (len(peer.asked), shop.calls) == (3, ["A17"])
    assert asked.names() == ["MODEL_RESPONDED", "TOOL_CALLED", "TOOL_RETURNED", "MODEL_RESPONDED"]
    await shop.answer(Asked("where is my order").request())
    assert (len(peer.asked), shop.calls) == (5, ["A17", "A17"])


async def test_the_next_question_knows_of_a_tool_that_was_interrupted(serve: Serve) -> None:
    """While it runs, and with its result; it is not called again."""
    peer = ChatPeer()
    shop, asked = Shop(await serve(peer.app())), Asked("where is my order", thinking={"more_words": "supersede"})
    shop.may_return.clear()
    first = asyncio.create_task(shop.answer(asked.request()))
    await asyncio.wait_for(shop.begun.wait(), 10)
    first.cancel()
    await asyncio.wait([first])
    asked.does("says", "hello?")
    await shop.answer(asked.request())
    assert peer.roles[-1] == ["system", "user", "assistant", "tool", "user"]
    assert peer.asked[-1]["messages"][3]["content"].startswith("This call is still running.")
    shop.may_return.set()
    await asked.tools.until(lambda: not asked.state.outstanding("RunTool"))
    asked.does("says", "hello again")
    await shop.answer(asked.request())
    assert peer.asked[-1]["messages"][3]["content"] == "on its way"
    assert shop.calls == ["A17"]
    (earlier,) = peer.asked[-1]["messages"][2]["tool_calls"]
    assert re.fullmatch("[a-zA-Z0-9]{9}", earlier["id"]), "the form that all model providers take"
    assert peer.asked[-1]["messages"][3]["tool_call_id"] == earlier["id"]


async def test_calls_that_a_model_gives_the_same_id_all_run(serve: Serve) -> None:
    """Some servers number the calls of each response anew. Asked again, each call gets its own result."""

    def books(messages: list[dict[str, Any]]) -> list[Says]:
        calls: list[Says] = [("check", {"table": 7}), ("book", {"table": 7})]
        made = sum(message["role"] == "tool" for message in messages)
        return calls[made : made + 1] or [" ".join(one["content"] for one in messages if one["role"] == "tool")]

    peer, ran = ChatPeer(books), list[str]()
    shop, asked = Shop(await serve(peer.app())), Asked("book table 7")

    @shop.agent.tool_plain
    def check(table: int) -> str:
        ran.append("check")
        return f"{table} is free"

    @shop.agent.tool_plain
    def book(table: int) -> str:
        ran.append("book")
        return f"{table} is booked"

    for _ in range(2):
        assert "".join(await shop.answer(asked.request())) == "7 is free 7 is booked"
        assert ran == ["check", "book"]
        asked.crashes()


async def test_a_tool_that_is_cancelled_from_within_fails_to_the_model(serve: Serve) -> None:
    """Nobody cancelled the call: something that the tool awaited was cancelled by others."""
    peer = ChatPeer()
    shop, asked = Shop(await serve(peer.app())), Asked("where is my order")
    shop.results = [asyncio.CancelledError()]
    assert "Monday" in "".join(await shop.answer(asked.request()))
    assert "TOOL_RETURNED" in asked.names()
    assert peer.asked[-1]["messages"][-1]["content"].startswith("The call failed: ")


async def test_a_run_that_is_cancelled_from_within_is_a_failure(serve: Serve) -> None:
    """A turn that nobody cancelled must hear of it."""
    shop = Shop(await serve(ChatPeer().app()))

    @shop.agent.instructions
    async def broken() -> str:
        raise asyncio.CancelledError

    with pytest.raises(ServiceError, match="the agent failed"):
        await shop.answer()


async def test_a_result_of_several_parts_and_a_retry_are_recorded(serve: Serve) -> None:
    """The second attempt gives the model the same messages as the first."""
    results: list[Any] = [ToolReturn({"at": "the door"}, metadata={"seen": 1}), ModelRetry("no such order")]
    for result, seen in zip(results, ("at the door", "no such order"), strict=True):
        peer = ChatPeer()
        shop, asked = Shop(await serve(peer.app())), Asked("where is my order")
        shop.results = [result]
        await shop.answer(asked.request(), until="Your")
        told = peer.asked[-1]["messages"]
        assert all(word in told[-1]["content"] for word in seen.split())
        asked.crashes()
        await shop.answer(asked.request())
        assert (peer.asked[-1]["messages"], shop.calls) == (told, ["A17"])


async def test_a_tool_that_raises_fails_to_the_model(serve: Serve) -> None:
    """The caller is answered; so is one whose tool returns too much."""
    for result, told in ((OSError("the database is down"), "order_status"), ("x" * 9_000, "at most 8000 are allowed")):
        peer = ChatPeer()
        shop, asked = Shop(await serve(peer.app())), Asked("where is my order")
        shop.results = [result]
        assert "Monday" in "".join(await shop.answer(asked.request()))
        assert peer.asked[-1]["messages"][-1]["content"].startswith("The call failed: ")
        assert told in peer.asked[-1]["messages"][-1]["content"]


async def test_arguments_that_are_no_json_are_told_to_the_model(serve: Serve) -> None:
    """A model may write NaN, which no other reader of the record would understand; the tool is not called."""

    def weighs(messages: list[dict[str, Any]]) -> list[Says]:
        return ["It is too heavy."] if messages[-1]["role"] == "tool" else [("weigh", {"grams": float("nan")})]

    peer, weighed = ChatPeer(weighs), list[float]()
    shop, asked = Shop(await serve(peer.app())), Asked("how heavy is it")

    @shop.agent.tool_plain
    def weigh(grams: float) -> None:
        weighed.append(grams)

    assert "".join(await shop.answer(asked.request())) == "It is too heavy."
    assert "the arguments of weigh cannot be written as JSON" in peer.asked[-1]["messages"][-1]["content"]
    assert (weighed, asked.names()) == ([], ["MODEL_RESPONDED", "MODEL_RESPONDED"])


@pytest.mark.parametrize("result", ["[1,2]", '{"table":7}', '"on its way"', "7"])
async def test_the_result_of_a_functions_call_is_part_of_the_history(serve: Serve, result: str) -> None:
    """Another provider answered before, or an agent of yesterday: its results are no objects of this port."""
    peer = ChatPeer()
    shop, asked = Shop(await serve(peer.app())), Asked("book a table")
    command = asked.talk.outstanding("AnswerQuestion").command_id
    asked.does("input", ToolCalled, arguments="{}", call_id="f/book/1", command_id=command, name="book")
    runs = asked.talk.outstanding("RunTool").command_id
    asked.does("input", ToolReturned, call_id="f/book/1", command_id=runs, result=result)
    assert await shop.answer(Request("hello", conversation=asked.lines()))
    told = next(message for message in peer.asked[0]["messages"] if message["role"] == "tool")
    assert told["content"].strip('"') == result.strip('"')


async def test_a_rerun_of_an_unchanged_agent_asks_nobody(serve: Serve) -> None:
    """Model and tool come from the recording; with another prompt, the model is asked."""
    peer = ChatPeer()
    url = await serve(peer.app())
    shop, asked = Shop(url), Asked("where is my order")
    said = "".join(await shop.answer(asked.request()))
    asked.does("answers", said)
    asked.does("speaks")
    asked.does("played")
    today = Shop(url)
    call = await asyncio.to_thread(rerun, asked.talk.log, today.agent)
    call.check()
    assert call.tools == [("order_status", {"order_id": "A17"})]
    assert (len(peer.asked), today.calls) == (2, [])
    other = Shop(url)
    other.agent.instructions("Be polite.")
    await asyncio.to_thread(rerun, asked.talk.log, other.agent)
    assert (len(peer.asked), other.calls) == (4, [])


async def test_a_failure_is_a_service_error() -> None:
    """Of the model; no text of the error stands in a masked log."""
    gone = Shop("http://127.0.0.1:1")
    with pytest.raises(ServiceError, match="the agent failed") as caught:
        await gone.answer()
    assert caught.value.in_our_words == "the agent failed"


async def test_deps_reach_the_tools_and_output_must_be_text(serve: Serve) -> None:
    """`PydanticAgent` takes what each run of the agent needs."""
    with pytest.raises(TypeError, match="its output_type is not str"):
        users_ports(answer=Agent(output_type=int))
    peer = ChatPeer()
    shop = Shop(await serve(peer.app()))
    told: list[Any] = []

    @shop.agent.instructions
    def note(ctx: Any) -> str:
        told.append(ctx.deps)
        return ""

    async with PydanticAgent(shop.agent, deps="the shop") as port, aclosing(port.stream(Request("hello"))) as stream:
        assert await anext(stream) == "Hello. "
    assert told == ["the shop"]
