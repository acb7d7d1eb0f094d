"""Several answer services, and the tool calls and model requests that they make: none is repeated by the next one."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from service_peers import Serve

from events.inputs import SttPartial
from events.journal import ModelResponded, ToolCalled
from orchestrator.services.failures import ServiceError
from orchestrator.services.fallback import FallbackAnswer, Health, Providers
from orchestrator.services.http_clients import HttpAnswer
from orchestrator.services.journal import PendingToolCall
from orchestrator.services.ports import Answer, AnswerPort, Request
from orchestrator.services.text_functions import answer_port
from tests.question import Asked

PATIENCE_S = 0.3
LONG_S = 2 * PATIENCE_S
"""How long the tests watch that nobody else is asked."""


def fallback(*services: object) -> FallbackAnswer:
    ports: list[AnswerPort] = [answer_port(service) for service in services]
    return FallbackAnswer(Providers("answer", ports, Health(lambda _: None), PATIENCE_S))


async def recorded(asked: Asked, kind: str, times: int = 1) -> None:
    """Wait for events of this type in the log."""
    async with asyncio.timeout(10):
        await asked.tools.until(lambda: asked.names().count(kind) >= times)


async def said(port: AnswerPort, request: Request) -> str:
    async with asyncio.timeout(10):
        pieces = [piece async for piece in port.stream(request)]
    return "".join(piece.answer if isinstance(piece, Answer) else piece for piece in pieces)


class Restaurant:
    """Books tables, as slowly as the test says. Its agents book Friday."""

    def __init__(self) -> None:
        self.booked: list[str] = []
        self.begun, self.may_return, self.sorry_asked = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def book(self, day: str) -> int:
        self.booked.append(day)
        self.begun.set()
        await self.may_return.wait()
        return len(self.booked)

    async def agent(self, request: Request) -> str:
        return f"table {await request.once('book', self.book, 'Friday')}"

    async def sorry(self, request: Request) -> str:
        self.sorry_asked.set()
        return "sorry"

    async def nobody_else_is_asked(self) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(self.sorry_asked.wait(), LONG_S)


async def test_a_tool_that_takes_long_is_waited_for() -> None:
    """The provider is not late: the booking is under way."""
    asked, place = Asked(), Restaurant()
    answer = asyncio.create_task(said(fallback(place.agent, place.sorry), asked.request()))
    await place.begun.wait()
    await place.nobody_else_is_asked()
    place.may_return.set()
    assert await answer == "table 1"


async def test_after_the_tool_the_patience_begins_anew() -> None:
    """A provider that hangs then is late. The next one repeats no call, whatever its model calls it."""
    asked, place = Asked(), Restaurant()

    def with_id(call_id: str) -> Callable[[Request], Awaitable[str]]:
        async def agent(request: Request) -> str:
            async def run(_: str) -> str:
                return str(await place.book("Friday"))

            return await request.attempt.journal.call(PendingToolCall("book", '{"day":"Friday"}', run, call_id=call_id))

        return agent

    async def hangs(request: Request) -> str:
        await with_id("call_1")(request)
        await asyncio.Event().wait()
        raise AssertionError

    place.may_return.set()
    assert await said(fallback(hangs, with_id("toolu_1")), asked.request()) == "1"
    asked.crashes()
    assert await said(fallback(with_id("call_2"), place.sorry), asked.request()) == "1"
    assert place.booked == ["Friday"]


async def test_a_question_asked_early_waits_for_its_turn() -> None:
    """Its call is pending until the user has said it."""
    asked, place = Asked(speculation={"tries": 1}), Restaurant()
    asked.does("answers", "Hi.")
    asked.does("speaks")
    asked.does("played")
    asked.does("input", SttPartial, text="book Friday", is_complete=True)
    answer = asyncio.create_task(said(fallback(place.agent, place.sorry), asked.request()))
    await place.nobody_else_is_asked()
    asked.does("says", "book Friday")
    place.may_return.set()
    assert await answer == "table 1"


class Service:
    """An HTTP service that runs its own tool."""

    def __init__(self, *lines: dict[str, Any] | asyncio.Event) -> None:
        self.lines = lines
        self.asked, self.closed = asyncio.Event(), asyncio.Event()

    async def query(self, request: web.Request) -> web.StreamResponse:
        self.asked.set()
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            for line in self.lines:
                if isinstance(line, asyncio.Event):
                    await line.wait()
                else:
                    await response.write(json.dumps(line).encode() + b"\n")
        finally:
            self.closed.set()
        return response


def called(day: str) -> dict[str, Any]:
    return {"tool_called": {"id": "c1", "name": "book", "arguments": {"day": day}}}


def returned(table: int) -> dict[str, Any]:
    return {"tool_returned": {"id": "c1", "result": table}}


@pytest.mark.parametrize("where", ["in the call", "after the call"])
async def test_a_service_that_has_told_a_tool_call_is_not_replaced(
    http: aiohttp.ClientSession, serve: Serve, where: str
) -> None:
    """It runs the tool itself; a second service would book once more."""
    asked, goes_on = Asked(), asyncio.Event()
    waits = [goes_on, returned(7)] if where == "in the call" else [returned(7), goes_on]
    one, two = Service(called("Friday"), *waits, {"answer": "Table 7."}), Service({"answer": "sorry"})
    services = [HttpAnswer(http, await serve(service.query)) for service in (one, two)]
    answer = asyncio.create_task(said(fallback(*services), asked.request()))
    await recorded(asked, "TOOL_CALLED")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(two.asked.wait(), LONG_S)
    assert not one.closed.is_set()
    goes_on.set()
    assert await answer == "Table 7."


async def test_calls_of_two_services_with_the_same_id_are_two(http: aiohttp.ClientSession, serve: Serve) -> None:
    """The first one fails after its call. Asked again by a new owner, both tell the calls that are recorded already."""
    asked = Asked()
    one = Service(called("Friday"), returned(7), {"error": "the model is down"})
    two = Service(called("Monday"), returned(8), {"answer": "Table 8."})
    services = [HttpAnswer(http, await serve(service.query)) for service in (one, two)]
    for _ in range(2):
        assert await said(fallback(*services), asked.request()) == "Table 8."
        await recorded(asked, "TOOL_RETURNED", 2)
        asked.crashes()
    ids = [event.call_id for event in asked.talk.log if isinstance(event, ToolCalled)]
    assert [name.partition("/")[2] for name in ids] == ["c1", "c1#2"]
    assert [(line.call.arguments, line.text) for line in asked.lines() if line.call] == [
        ('{"day":"Friday"}', "7"),
        ('{"day":"Monday"}', "8"),
    ]
    asked.talk.check()


class Maker:
    """An agent over one maker's model. It fails after the first response if it must."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name = name
        self.fails = fails
        self.requests: list[str] = []

    async def model(self, text: str) -> dict[str, str]:
        self.requests.append(text)
        return {self.name: f"{text}, says {self.name}"}

    async def answer(self, request: Request) -> str:
        found = [(await request.ask_model(self.model, text))[self.name] for text in ("one", "two")]
        if self.fails:
            raise ServiceError(f"{self.name} is down")
        return "; ".join(found)


async def test_each_provider_asks_its_own_model() -> None:
    """The response of another maker has another format, also to an equal request. A new owner repeats none of them."""
    asked, first, second = Asked(), Maker("openai", fails=True), Maker("anthropic")
    answers = fallback(first, second)
    for _ in range(2):
        assert await said(answers, asked.request()) == "one, says anthropic; two, says anthropic"
        await recorded(asked, "MODEL_RESPONDED", 4)
        asked.crashes()
    assert first.requests == second.requests == ["one", "two"]
    ids = [event.call_id for event in asked.talk.log if isinstance(event, ModelResponded)]
    assert [name.partition("/")[2] for name in ids] == ["model/1", "model/2", "model/1#2", "model/2#2"]
    first.fails = False
    assert await said(answers, asked.request()) == "one, says openai; two, says openai"
    assert first.requests == ["one", "two"]


async def test_a_prompt_that_tells_the_time_is_not_asked_again() -> None:
    """Responses are matched by their order: another one might want other tools."""
    asked, requests = Asked(), list[str]()

    async def model(prompt: str) -> str:
        requests.append(prompt)
        return "hello"

    for time in ("10:00", "10:01"):
        assert await asked.request().ask_model(model, f"It is {time}.") == "hello"
        await recorded(asked, "MODEL_RESPONDED")
        asked.crashes()
    assert requests == ["It is 10:00."]
