"""kill -9 in an answer with a tool: another node finishes it, repeats nothing recorded, and says no sentence twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web

from events.derived import AnswerEnded
from events.inputs import AnswerText
from events.journal import ToolCalled, ToolReturned
from tests.calls.moving import Moving
from tests.runtime.support import soon

pytestmark = [pytest.mark.calls, pytest.mark.chaos]

SAY = "Let me book that for you, it takes a moment."
TELL = (" You have table seven.", " It is at the window.", " See you on Friday.")


class Restaurant:
    """The model and the booking system, over HTTP; they count what reaches them."""

    def __init__(self) -> None:
        self.plans = self.tells = 0
        self.keys: list[str] = []
        self.may_book, self.may_tell = asyncio.Event(), asyncio.Event()

    def app(self) -> web.Application:
        application = web.Application()
        application.add_routes(
            [web.post("/plan", self.plan), web.post("/book", self.book), web.post("/tell", self.tell)]
        )
        return application

    async def plan(self, _: web.Request) -> web.Response:
        self.plans += 1
        return web.json_response({"say": SAY, "day": "Friday"})

    async def book(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers["Idempotency-Key"])
        await self.may_book.wait()
        return web.json_response(7)

    async def tell(self, request: web.Request) -> web.StreamResponse:
        self.tells += 1
        response = web.StreamResponse()
        await response.prepare(request)
        for number, sentence in enumerate(TELL):
            for word in sentence.split(" ")[1:]:
                await response.write(f" {word}".encode())
            if number == 0:
                await self.may_tell.wait()
        return response


@pytest.fixture
async def call(tmp_path: Path) -> AsyncIterator[tuple[Moving, Restaurant]]:
    """A call to the agent over two services."""
    restaurant = Restaurant()
    runner = web.AppRunner(restaurant.app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://{}:{}".format(*runner.addresses[0][:2])
    async with AsyncExitStack() as stack:
        yield (
            await Moving.start(stack, tmp_path, agent="tests.calls.booking_agent:answer", BOOKING_URL=url),
            restaurant,
        )
    await runner.cleanup()


async def is_told_once(moving: Moving) -> None:
    """All of the answer was given to the user, and each sentence once."""
    await moving.heard_to_its_end()
    log = await moving.log()
    texts = [event for event in log if isinstance(event, AnswerText)]
    assert [event.index for event in texts] == [*range(len(texts))]
    assert "".join(event.text for event in texts) == SAY + "".join(TELL)
    (ended,) = [event for event in log if isinstance(event, AnswerEnded)]
    assert (ended.outcome, ended.heard_text) == ("finished", SAY + "".join(TELL))


async def test_killed_while_the_second_response_streams(call: tuple[Moving, Restaurant]) -> None:
    """The interrupted request is made again; neither the first one nor the booking."""
    moving, restaurant = call
    restaurant.may_book.set()
    await moving.caller.send(type="text", text="book a table")
    await moving.caller.hears("reply")
    await moving.confirmed()
    await soon(lambda: restaurant.tells == 1)
    await moving.kill_the_owner()
    restaurant.may_tell.set()
    await is_told_once(moving)
    assert (restaurant.plans, len(restaurant.keys), restaurant.tells) == (1, 1, 2)


async def test_killed_while_a_tool_runs(call: tuple[Moving, Restaurant]) -> None:
    """The call inside which the process died is made again, under the same key; nothing else is."""
    moving, restaurant = call
    restaurant.may_tell.set()
    await moving.caller.send(type="text", text="book a table")
    await moving.caller.hears("reply")
    await moving.confirmed()
    await soon(lambda: len(restaurant.keys) == 1)
    await moving.kill_the_owner()
    restaurant.may_book.set()
    await is_told_once(moving)
    first, second = restaurant.keys
    assert first == second
    assert (restaurant.plans, restaurant.tells) == (1, 1)
    log = await moving.log()
    assert len([event for event in log if isinstance(event, ToolCalled)]) == 1
    assert len([event for event in log if isinstance(event, ToolReturned)]) == 1
