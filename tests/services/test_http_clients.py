"""The intent and answer clients against services that answer well, badly, late and not at all."""

import asyncio
import socket

import aiohttp
import pytest
from aiohttp import web
from service_peers import Handler, Serve

from orchestrator.services.http_clients import Endpoint, HttpAnswer, HttpIntent
from orchestrator.services.ports import Answer, Intent, Line, Request, ServiceError


def saying(answer: object) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(answer)

    return handler


async def test_a_question_carries_text_session_turn_and_idempotency_key(
    http: aiohttp.ClientSession, serve: Serve
) -> None:
    """The contract of target-flow.md, plus the header that lets a service drop a repeated request."""
    seen: list[object] = []

    async def handler(request: web.Request) -> web.Response:
        seen.extend((request.path, await request.json(), request.headers.get("Idempotency-Key")))
        return web.json_response({"intent": "greeting", "confidence_permille": 900})

    intents = HttpIntent(http, await serve(handler))
    found = await intents.classify(Request("hello", session_id="s", turn=3, idempotency_key="s:3:intent"))
    assert found == Intent("greeting", 900)
    assert seen == ["/intent", {"text": "hello", "session_id": "s", "turn": 3}, "s:3:intent"]


async def test_a_question_carries_the_conversation_so_far(http: aiohttp.ClientSession, serve: Serve) -> None:
    """Oldest line first; without one the body is as before."""
    seen: list[object] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return web.json_response({"answer": "yes"})

    answers = HttpAnswer(http, await serve(handler))
    so_far = (Line("user", "hello"), Line("agent", "Hi! How"))
    await answers.answer(Request("and now?", session_id="s", turn=2, conversation=so_far))
    await answers.answer(Request("hello", session_id="s", turn=1))
    assert seen == [
        {
            "text": "and now?",
            "session_id": "s",
            "turn": 2,
            "conversation": [{"role": "user", "text": "hello"}, {"role": "agent", "text": "Hi! How"}],
        },
        {"text": "hello", "session_id": "s", "turn": 1},
    ]


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        ({"intent": "a"}, Intent("a", 0)),
        ({"intent": "a", "confidence": 0.875}, Intent("a", 875)),
        ({"intent": "a", "confidence": 1}, Intent("a", 1000)),
        ({"intent": "a", "confidence_permille": 1, "confidence": 0.9}, Intent("a", 1)),
        ({"intent": "a", "confidence": None, "entities": [{"x": 1}]}, Intent("a", 0)),
    ],
)
async def test_what_the_contract_leaves_open_is_read_kindly(
    http: aiohttp.ClientSession, serve: Serve, said: object, understood: Intent
) -> None:
    """Confidence may be a share of one or permille or missing, and keys nobody knows are ignored."""
    intents = HttpIntent(http, await serve(saying(said)))
    assert await intents.classify(Request("x")) == understood


@pytest.mark.parametrize(
    "said",
    [
        {"intent": "a", "confidence": 1.5},
        {"intent": "a", "confidence_permille": -1},
        {"intent": "a", "confidence": True},
        {"intent": "a", "confidence": float("nan")},
        {"intent": None},
        {"name": "a"},
        {"intent": "a" * 501},
        ["a"],
    ],
)
async def test_an_answer_that_breaks_the_contract_is_a_service_error(
    http: aiohttp.ClientSession, serve: Serve, said: object
) -> None:
    """Nothing half understood goes on into a conversation."""
    intents = HttpIntent(http, await serve(saying(said)))
    with pytest.raises(ServiceError, match="/intent"):
        await intents.classify(Request("x"))


async def test_an_answer_names_its_sources_in_any_usual_way(http: aiohttp.ClientSession, serve: Serve) -> None:
    """Services give names, or objects that have one."""
    said = {"answer": "Hi!", "sources": ["a.md", {"title": "B", "score": 1}, 3]}
    answers = HttpAnswer(http, await serve(saying(said)))
    assert await answers.answer(Request("hello")) == Answer("Hi!", ("a.md", "B", "3"))


async def test_a_refusal_is_told_with_the_status_and_the_words_of_the_service(
    http: aiohttp.ClientSession, serve: Serve
) -> None:
    """Who reads the log must know which service said what, and never sees secrets of the URL."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"error": "no model loaded"}, status=503)

    url = (await serve(handler)).replace("http://", "http://user:secret@") + "/v1?key=secret"
    with pytest.raises(ServiceError, match=r"status 503 \(no model loaded\)") as caught:
        await HttpAnswer(http, url).answer(Request("x"))
    assert "/v1/query" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_text_that_is_not_json_is_quoted_in_the_error(http: aiohttp.ClientSession, serve: Serve) -> None:
    """A proxy's HTML page is the usual reason."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(text="<html>Welcome</html>")

    with pytest.raises(ServiceError, match=r"not JSON.*Welcome"):
        await HttpAnswer(http, await serve(handler)).answer(Request("x"))


async def test_an_oversized_answer_is_refused_while_it_comes(http: aiohttp.ClientSession, serve: Serve) -> None:
    """An endless body must not fill the memory."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65_536)

    with pytest.raises(ServiceError, match="longer than 256 KiB"):
        await HttpAnswer(http, await serve(handler)).answer(Request("x"))


async def test_a_service_that_is_not_there_is_told_with_what_to_check(http: aiohttp.ClientSession) -> None:
    """The most frequent failure of all deserves the clearest words."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ServiceError, match=r"cannot connect.*is the service running"):
        await HttpIntent(http, url).classify(Request("x"))


async def test_a_kept_connection_that_the_server_closed_costs_no_turn(http: aiohttp.ClientSession) -> None:
    """Servers close idle connections when they like, also in the moment of the next question."""
    connections = 0

    async def serve_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"}")
        body = b'{"answer": "yes"}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await reader.readuntil(b"}")  # the second question on this connection is never answered
        writer.close()

    async with await asyncio.start_server(serve_once, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        answers = HttpAnswer(http, f"http://127.0.0.1:{port}")
        for _ in range(2):
            assert await answers.answer(Request("x")) == Answer("yes")
        await http.close()
    assert connections == 2


async def test_a_service_that_is_late_is_given_up(http: aiohttp.ClientSession, serve: Serve) -> None:
    """The time is bounded, and the message says by how much."""

    async def handler(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError("never")

    with pytest.raises(ServiceError, match=r"within 0\.05 s"):
        await HttpIntent(http, await serve(handler), timeout_ms=50).classify(Request("x"))


async def test_cancelling_a_question_closes_the_request_at_once(http: aiohttp.ClientSession, serve: Serve) -> None:
    """The service learns that nobody waits any more, so it can stop its work."""
    asked, dropped = asyncio.Event(), asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            dropped.set()
        raise AssertionError("never")

    question = asyncio.create_task(HttpAnswer(http, await serve(handler)).answer(Request("x")))
    await asyncio.wait_for(asked.wait(), 2)
    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await question
    await asyncio.wait_for(dropped.wait(), 2)


async def test_a_wrong_url_fails_when_it_is_wired_not_in_a_call(http: aiohttp.ClientSession) -> None:
    """Settings are checked at the start."""
    with pytest.raises(ValueError, match="not an http"):
        HttpIntent(http, "localhost:8001")


async def test_a_url_may_be_the_base_or_the_whole_address(http: aiohttp.ClientSession) -> None:
    """Both are what people write into settings."""
    for url in ("http://x/v1", "http://x/v1/", "http://x/v1/intent"):
        assert Endpoint(http, url, "/intent", timeout_ms=1).url == "http://x/v1/intent"
