"""Answers of a language model by OpenAI's interface, and the demo agent that asks one (`orch serve --model`)."""

import asyncio
from contextlib import AsyncExitStack, aclosing

import pytest
from aiohttp import web

from orchestrator import OpenAIAnswer, Policy, Request, ServiceError, Settings
from orchestrator.port_filling import fill_ports
from orchestrator.services.fallback import Health
from orchestrator.session.conversation import Line, ToolCall
from tests.adapters.chat_peer import ChatPeer
from tests.adapters.conftest import Serve

LINES = (Line("user", "hello"), Line("tool", "7", ToolCall("c", "book", "{}", "returned")), Line("agent", "Hello."))


async def test_the_tokens_come_as_the_model_writes(serve: Serve) -> None:
    """With the conversation, and the instructions first; lines of tools are left out."""
    peer = ChatPeer()
    url = await serve(peer.app())
    async with OpenAIAnswer("local", instructions="Be brief.", base_url=f"{url}/v1", api_key="key") as port:
        pieces = [piece async for piece in port.stream(Request("how are you", conversation=LINES))]
    assert "".join(pieces) == "Hello. How can I help?"
    assert len(pieces) > 3
    assert peer.roles == [["system", "user", "assistant", "user"]]


async def test_an_interruption_ends_the_request(serve: Serve) -> None:
    peer = ChatPeer(stops_after=3)
    url = await serve(peer.app())
    async with OpenAIAnswer(base_url=f"{url}/v1") as port, aclosing(port.stream(Request("hello"))) as pieces:
        assert await anext(pieces) == "Hello. "
    await asyncio.wait_for(peer.aborted.wait(), 2)


@pytest.mark.parametrize(
    "events",
    [
        ['{"choices": [{"delta": {"content": "Hello."}}]}', '{"choices": [{"delta": {}, "finish_reason": "stop"}]}'],
        ['{"choices": [{"delta": {"content": "Hello."}, "finish_reason": "stop"}]}', '{"choices": [{}]}'],
        [
            '{"choices": [{"delta": {"content": [{"type": "thinking", "thinking": "hm"}]}}], "error": null}',
            '{"choices": [{"delta": {"content": [{"type": "text", "text": "Hello."}]}}]}',
            '{"choices": [{"delta": null, "finish_reason": null}]}',
            "[DONE]",
        ],
    ],
)
async def test_servers_end_and_divide_their_answers_in_their_own_ways(serve: Serve, events: list[str]) -> None:
    """Without [DONE], without a delta, with parts of which some are no words for the caller."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(text="".join(f"data: {event}\n\n" for event in events), content_type="text/event-stream")

    application = web.Application()
    application.add_routes([web.post("/v1/chat/completions", handler)])
    async with OpenAIAnswer(base_url=f"{await serve(application)}/v1") as port:
        assert "".join([piece async for piece in port.stream(Request("hello"))]) == "Hello."


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('data: {"choices": [{"delta": {"content": "Hi"}}]}\n\n', "broke off: it has no \\[DONE\\]"),
        ('data: {"error": {"message": "overloaded"}}\n\n', "the model failed"),
        ('data: {"choices": 5}\n\n', "has no choices"),
        ('data: {"choices": [5]}\n\n', "has no choices"),
        ('data: {"usage": 7}\n\n', "has no choices"),
        ("data: x\n\n", "the answer is not JSON"),
    ],
)
async def test_a_broken_stream_is_a_service_error(serve: Serve, body: str, problem: str) -> None:
    """In words, with the address."""

    async def broken(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="text/event-stream")

    application = web.Application()
    application.add_routes([web.post("/v1/chat/completions", broken)])
    url = await serve(application)
    async with OpenAIAnswer(base_url=f"{url}/v1") as port:
        with pytest.raises(ServiceError, match=problem):
            _ = [piece async for piece in port.stream(Request("hello"))]


async def test_the_demo_agent_asks_a_model(serve: Serve) -> None:
    """ORCH_MODEL_URL: the model knows the content of the demo agent, and its manners."""
    peer = ChatPeer()
    url = await serve(peer.app())
    settings = Settings(
        model_url=f"{url}/v1", model_name="local", intent_url=url, tts_url=url, stt_url="ws://127.0.0.1:1"
    )
    ports = dict.fromkeys(("intent", "answer", "tts", "stt"), ())
    async with AsyncExitStack() as stack:
        filled = await fill_ports(settings, Policy(), ports, stack, Health(lambda _: None))
        said = "".join([str(piece) async for piece in filled.answer.stream(Request("hello"))])
    assert said == "Hello. How can I help?"
    told = peer.asked[0]["messages"][0]["content"]
    assert told.startswith("You answer callers on the telephone")
    assert "car park behind the library" in told
    assert peer.asked[0]["model"] == "local"
