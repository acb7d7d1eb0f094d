"""The intent and answer clients against services that answer well, badly, late and not at all."""

import asyncio
import contextlib
import json
import re
import socket
import struct
from contextlib import aclosing
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from service_peers import Handler, Serve

from events.inputs import SttPartial
from orchestrator.runtime.effects.tool_calls import QuestionJournal
from orchestrator.services.failures import ServiceError
from orchestrator.services.http_clients import Endpoint, HttpAnswer, HttpIntent
from orchestrator.services.http_speech import HttpTextToSpeech
from orchestrator.services.ports import Answer, Intent, Request, SpeechChunk
from orchestrator.services.speech_wire import decode_line, encode_line
from orchestrator.services.text_functions import whole_answer
from orchestrator.session.conversation import Line
from tests.question import Asked
from tests.runtime.support import soon


def saying(answer: object) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(answer)

    return handler


async def test_a_question_carries_text_session_turn_and_idempotency_key(
    http: aiohttp.ClientSession, serve: Serve
) -> None:
    """The contract of docs/target-flow.md, plus the header that lets a service drop a repeated request."""
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
    await whole_answer(answers, Request("and now?", session_id="s", turn=2, conversation=so_far))
    await whole_answer(answers, Request("hello", session_id="s", turn=1))
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
    assert await whole_answer(answers, Request("hello")) == Answer("Hi!", ("a.md", "B", "3"))


async def test_a_refusal_is_told_with_the_status_and_the_words_of_the_service(
    http: aiohttp.ClientSession, serve: Serve
) -> None:
    """Who reads the log must know which service said what, and never sees secrets of the URL."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"error": "no model loaded"}, status=503)

    url = (await serve(handler)).replace("http://", "http://user:secret@") + "/v1?key=secret"
    with pytest.raises(ServiceError, match=r"status 503 \(no model loaded\)") as caught:
        await whole_answer(HttpAnswer(http, url), Request("x"))
    assert "/v1/query" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_text_that_is_not_json_is_quoted_in_the_error(http: aiohttp.ClientSession, serve: Serve) -> None:
    """A proxy's HTML page is the usual reason."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(text="<html>Welcome</html>")

    with pytest.raises(ServiceError, match=r"not JSON.*Welcome"):
        await whole_answer(HttpAnswer(http, await serve(handler)), Request("x"))


async def test_an_oversized_answer_is_refused_while_it_comes(http: aiohttp.ClientSession, serve: Serve) -> None:
    """An endless body must not fill the memory."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65_536)

    with pytest.raises(ServiceError, match="longer than 256 KiB"):
        await whole_answer(HttpAnswer(http, await serve(handler)), Request("x"))


async def test_a_service_that_is_not_there_is_told_with_what_to_check(http: aiohttp.ClientSession) -> None:
    """The most frequent failure of all deserves the clearest words."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ServiceError, match=r"cannot connect.*is the service running"):
        await HttpIntent(http, url).classify(Request("x"))


class GivesUp:
    """A server that answers the first question on each connection, and gives the connection up when another comes."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.asked: list[str] = []
        """The Idempotency-Key of every question that was read, answered or not."""
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._read(reader)
        body = b'{"answer": "yes"}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        if self.how == "RST before reading":
            await reader.readexactly(1)
        else:
            await self._read(reader)
        if self.how == "RST in the answer":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)  # it must leave before the reset overtakes it
        if self.how != "FIN":
            connection: Any = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}")
        self.asked += re.findall(r"Idempotency-Key: (\S+)", head.decode()) or ["none"]


async def asked_again(http: aiohttp.ClientSession, how: str, key: str) -> GivesUp:
    """One question after the other of that key over kept connections, each cut off once; what the server saw."""
    service = GivesUp(how)
    async with await asyncio.start_server(service.serve, "127.0.0.1", 0) as server:
        answers = HttpAnswer(http, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        try:
            for number in range(2):
                request = Request("x", idempotency_key=key and f"{key}-{number}")
                assert await whole_answer(answers, request) == Answer("yes")
        finally:
            await http.close()
    return service


@pytest.mark.parametrize("how", ["FIN", "RST", "RST before reading"])
async def test_a_kept_connection_that_the_server_gives_up_costs_no_turn(http: aiohttp.ClientSession, how: str) -> None:
    """Servers and balancers give up idle connections when they like, also in the moment of the next question, with an
    orderly end or with a reset.
    """
    service = await asked_again(http, how, "key")
    assert service.connections == 2
    assert service.asked[-1] == "key-1"


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_a_question_without_a_key_is_not_asked_again(http: aiohttp.ClientSession, how: str) -> None:
    """The server had read it: it may be carrying it out."""
    with pytest.raises(ServiceError, match="the connection broke"):
        await asked_again(http, how, "")


async def test_a_question_that_was_answered_in_part_is_not_asked_again(http: aiohttp.ClientSession) -> None:
    """The service has done its work."""
    with pytest.raises(ServiceError, match="the connection broke"):
        await asked_again(http, "RST in the answer", "key")


async def test_however_many_kept_connections_are_dead_one_second_try_is_enough(http: aiohttp.ClientSession) -> None:
    """A restarted server has given up all of them: the second try does not take the next one."""
    service = GivesUp("RST")
    async with await asyncio.start_server(service.serve, "127.0.0.1", 0) as server:
        answers = HttpAnswer(http, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        together = [whole_answer(answers, Request("x", idempotency_key=f"key-{number}")) for number in range(5)]
        assert await asyncio.gather(*together) == [Answer("yes")] * 5
        kept = service.connections
        assert await whole_answer(answers, Request("x", idempotency_key="last")) == Answer("yes")
        assert service.connections == kept + 1
        assert service.asked.count("last") == 2
        await http.close()


async def test_a_service_that_cannot_be_reached_is_not_called_late(http: aiohttp.ClientSession) -> None:
    """Its packets are dropped on the way, or none of our connections is free."""
    endpoint = Endpoint(http, "http://127.0.0.1:1", "/intent", timeout_ms=15_000)
    lost = endpoint.lost(aiohttp.ConnectionTimeoutError())
    assert "no connection within 2 s" in str(lost)
    assert "overloaded" not in str(lost)


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

    question = asyncio.create_task(whole_answer(HttpAnswer(http, await serve(handler)), Request("x")))
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


async def test_each_service_gets_the_headers_of_its_setting(http: aiohttp.ClientSession, serve: Serve) -> None:
    """With every attempt; an error of the service does not repeat them."""
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(f"{request.path} {request.headers.get('Authorization')} {request.headers['Idempotency-Key']}")
        return web.json_response({"error": "no"}, status=401)

    url, headers = await serve(handler), {"Authorization": "Bearer t0ken-of-ours"}
    request = Request("hello", idempotency_key="k")
    with pytest.raises(ServiceError) as caught:
        await HttpIntent(http, url, headers=headers).classify(request)
    with pytest.raises(ServiceError):
        await whole_answer(HttpAnswer(http, url, headers=headers), request)
    with pytest.raises(ServiceError):
        await anext(HttpTextToSpeech(http, url, headers=headers).synthesize(request))
    assert seen == [f"{path} Bearer t0ken-of-ours k" for path in ("/intent", "/query", "/stream")]
    assert "t0ken" not in f"{caught.value} {caught.value.in_our_words}"


def in_lines(*lines: str, then: str = "") -> Handler:
    """A service that streams its answer; `then`: the connection breaks."""

    async def handler(request: web.Request) -> web.StreamResponse:
        assert "application/x-ndjson" in request.headers["Accept"]
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for line in lines:
            await response.write(line.encode() + b"\n")
        if then:
            assert request.transport is not None
            request.transport.abort()
        return response

    return handler


async def pieces_of(port: HttpAnswer) -> list[str | Answer]:
    return [piece async for piece in port.stream(Request("x"))]


async def test_an_answer_may_come_in_lines(http: aiohttp.ClientSession, serve: Serve) -> None:
    """Texts, lines that say something else, and the end with its sources; what follows it is not read."""
    lines = ('{"text": "We are "}', "", '{"usage": 3}', '{"text": "open."}', '{"answer": "", "sources": ["a.md"]}', "{")
    port = HttpAnswer(http, await serve(in_lines(*lines)))
    assert await pieces_of(port) == ["We are ", "open.", Answer("", ("a.md",))]


CALLED = '{"tool_called": {"id": "c1", "name": "book", "arguments": {"day": "Friday"}}}'


async def test_a_service_tells_of_its_tools(http: aiohttp.ClientSession, serve: Serve) -> None:
    """They are recorded like the calls of a function, and are lines of the next question's conversation."""
    asked = Asked("book a table")
    returned = '{"tool_returned": {"id": "c1", "result": {"table": 7}}}'
    url = await serve(in_lines('{"text": "One moment. "}', CALLED, returned, '{"answer": "Done."}'))
    assert [piece async for piece in HttpAnswer(http, url).stream(asked.request())] == ["One moment. ", Answer("Done.")]
    await asyncio.wait_for(asked.tools.until(lambda: "TOOL_RETURNED" in asked.names()), 5)
    (line,) = [line for line in asked.lines() if line.call]
    assert line.text == '{"table":7}'
    assert line.call is not None
    assert (line.call.name, line.call.arguments) == ("book", '{"day":"Friday"}')

    bodies: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response({"answer": "Yes."})

    request = Request("and?", conversation=asked.lines())
    await whole_answer(HttpAnswer(http, await serve(handler)), request)
    call = {"id": line.call.call_id, "name": "book", "arguments": {"day": "Friday"}, "outcome": "returned"}
    assert bodies[0]["conversation"][-1] == {"role": "tool", "text": '{"table":7}', "call": call}


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ((CALLED, '{"tool_returned": {"id": "c1", "error": "no table"}}', '{"answer": ""}'), "no table"),
        (
            (CALLED, '{"tool_returned": {"id": "c1", "result": {"price": NaN}}}', '{"answer": ""}'),
            "the result of the tool cannot be written as JSON: NaN is no number of JSON",
        ),
        (
            (CALLED, '{"tool_returned": {"id": "c1", "result": "%s"}}' % ("x" * 9_000), '{"answer": ""}'),
            "the result of the tool has 9002 characters of JSON; at most 8000 are allowed",
        ),
        ((CALLED,), "the connection to the service ended before the call did; whether it had an effect is not known"),
    ],
)
async def test_a_call_of_a_service_that_fails_is_recorded(
    http: aiohttp.ClientSession, serve: Serve, lines: tuple[str, ...], error: str
) -> None:
    """None stays open; an answer that goes on after it is not lost."""
    asked = Asked("book a table")
    is_whole = lines[-1] != CALLED
    with contextlib.nullcontext() if is_whole else pytest.raises(ServiceError):
        await whole_answer(HttpAnswer(http, await serve(in_lines(*lines))), asked.request())
    await asyncio.wait_for(asked.tools.until(lambda: "TOOL_RETURNED" in asked.names()), 5)
    assert [line.text for line in asked.lines() if line.call] == [error]


async def test_a_call_that_takes_longer_than_its_limit_ends_no_answer(
    http: aiohttp.ClientSession, serve: Serve
) -> None:
    """The service goes on: its call has failed in the record, and what it says after that is heard."""
    asked = Asked("book a table", tools={"limit_ms": 20})

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await response.write(CALLED.encode() + b"\n")
        await asked.tools.until(lambda: "TOOL_RETURNED" in asked.names())
        await response.write(b'{"tool_returned": {"id": "c1", "result": 7}}\n{"answer": "Table seven."}\n')
        return response

    assert (await whole_answer(HttpAnswer(http, await serve(handler)), asked.request())).answer == "Table seven."
    assert [line.text for line in asked.lines() if line.call] == ["it took longer than 20 ms"]


async def test_an_error_of_null_is_no_error(http: aiohttp.ClientSession, serve: Serve) -> None:
    """Services that write all fields of their models write it in each line: of answers, of tools, of speech."""
    asked = Asked("book a table")
    returned = '{"tool_returned": {"id": "c1", "result": 7, "error": null}}'
    lines = ('{"text": null, "error": null}', CALLED, returned, '{"text": null, "answer": "Done.", "error": null}')
    assert (await whole_answer(HttpAnswer(http, await serve(in_lines(*lines))), asked.request())).answer == "Done."
    await asyncio.wait_for(asked.tools.until(lambda: "TOOL_RETURNED" in asked.names()), 5)
    assert [line.text for line in asked.lines() if line.call] == ["7"]
    line = json.loads(encode_line(SpeechChunk(bytes(640), 16_000)))
    assert decode_line(json.dumps(line | {"error": None}).encode()).pcm == bytes(640)


@pytest.mark.parametrize("texts", [(), ('{"text": "One moment. "}',)])
async def test_the_calls_of_a_guess_are_recorded_before_its_answer_ends(
    http: aiohttp.ClientSession, serve: Serve, texts: tuple[str, ...]
) -> None:
    """They wait for the turn, and the end of the answer with them: after it nobody would record them."""
    asked = Asked(speculation={"tries": 1})
    for event in (("answers", "Hi."), ("speaks",), ("played",)):
        asked.does(*event)
    asked.does("input", SttPartial, text="book Friday", is_complete=True)
    returned = '{"tool_returned": {"id": "c1", "result": 7}}'
    port = HttpAnswer(http, await serve(in_lines(*texts, CALLED, returned, '{"answer": "Table seven."}')))

    async def end() -> list[str]:
        """The facts that are recorded when the answer ends. Nobody waits for more, as in the runtime."""
        async with aclosing(port.stream(asked.request())) as pieces:
            async for piece in pieces:
                if isinstance(piece, Answer):
                    return asked.names()
        raise AssertionError("no end")

    ending = asyncio.create_task(end())
    await soon(lambda: bool(asked.tools._waiting))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(ending), 0.2)
    assert asked.names() == []
    asked.does("says", "book Friday")
    assert "TOOL_CALLED" in await asyncio.wait_for(ending, 5)
    await asyncio.wait_for(asked.tools.until(lambda: "TOOL_RETURNED" in asked.names()), 5)
    assert [line.text for line in asked.lines() if line.call] == ["7"]


async def test_an_answer_does_not_wait_for_the_result_of_its_call(http: aiohttp.ClientSession, serve: Serve) -> None:
    """A service may answer while its tool runs: the call is recorded, and fails with the end of the answer."""
    asked = Asked("book a table")
    port = HttpAnswer(http, await serve(in_lines(CALLED, '{"answer": "I am booking it."}')))
    assert (await asyncio.wait_for(whole_answer(port, asked.request()), 5)).answer == "I am booking it."
    assert asked.names()[0] == "TOOL_CALLED"


async def test_an_answer_ends_although_its_call_is_refused(http: aiohttp.ClientSession, serve: Serve) -> None:
    """One more than `tools.calls`, or a session that leaves this process."""
    asked = Asked("book a table", tools={"calls": 0})
    returned = '{"tool_returned": {"id": "c1", "result": 7}}'
    port = HttpAnswer(http, await serve(in_lines(CALLED, returned, '{"answer": "Table seven."}')))
    assert (await asyncio.wait_for(whole_answer(port, asked.request()), 5)).answer == "Table seven."


async def test_a_call_of_an_answer_that_nobody_waits_for_leaves_nothing_behind(
    http: aiohttp.ClientSession, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that was asked early, and whose turn never came: its tool call waits for the turn."""
    asked = Asked("book a table")
    monkeypatch.setattr(QuestionJournal, "_is_asked_by_the_turn", lambda _: False)
    never = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await response.write(CALLED.encode() + b"\n")
        await never.wait()
        return response

    asking = asyncio.create_task(whole_answer(HttpAnswer(http, await serve(handler)), asked.request()))
    await soon(lambda: bool(asked.tools._waiting))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await soon(lambda: not asked.tools._waiting)
    assert "TOOL_CALLED" not in asked.names()


async def test_a_session_that_is_over_leaves_nobody_waiting() -> None:
    """For a call that was never recorded, say: the session would be held in memory by who waits."""
    asked = Asked()
    waiting = asyncio.create_task(asked.tools.until(lambda: False))
    await soon(lambda: bool(asked.tools._waiting))
    asked.tools.close()
    await asyncio.wait([waiting], timeout=5)
    assert waiting.cancelled()


@pytest.mark.parametrize(
    "line",
    [
        '{"tool_called": {"id": "c1"}}',
        '{"tool_called": {"name": "book"}}',
        '{"tool_returned": {"id": "c1", "result": 1}}',
    ],
)
async def test_a_wrong_line_about_a_tool_is_an_error(http: aiohttp.ClientSession, serve: Serve, line: str) -> None:
    with pytest.raises(ServiceError, match="the service's line 'tool_"):
        await whole_answer(HttpAnswer(http, await serve(in_lines(line, '{"answer": "x"}'))), Request("x"))


async def test_a_line_is_read_when_it_comes(http: aiohttp.ClientSession, serve: Serve) -> None:
    """Not when the answer is complete; an interruption closes the request."""
    dropped = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await response.write(b'{"text": "We are "}\n')
        try:
            await asyncio.Event().wait()
        finally:
            dropped.set()
        return response

    pieces = HttpAnswer(http, await serve(handler)).stream(Request("x"))
    assert await anext(pieces) == "We are "
    await pieces.aclose()
    await asyncio.wait_for(dropped.wait(), 2)


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (in_lines('{"text": "We"}'), r"broke off: its last line has no 'answer'"),
        (in_lines('{"text": "We"}', then="breaks"), r"the connection broke"),
        (in_lines('{"text": "We"}', '{"error": "no model"}'), r"the service failed \(no model\)"),
        (in_lines('{"text": "We"}', "are"), r"not JSON \(are\)"),
        (in_lines('{"answer": 5}'), r"no text 'answer'"),
        (in_lines('"' + "x" * 1_100_000), r"a line of more than 1 MiB"),
    ],
)
async def test_an_answer_in_lines_that_breaks_is_a_service_error(
    http: aiohttp.ClientSession, serve: Serve, handler: Handler, words: str
) -> None:
    """It names the service, and what was said stays said."""
    with pytest.raises(ServiceError, match=rf"/query: .*{words}"):
        await pieces_of(HttpAnswer(http, await serve(handler)))
