"""An agent that asks its model, says a sentence, books a table, and tells the result while the model writes."""

import os
from collections.abc import AsyncIterator

import aiohttp

from orchestrator import Request

URL = os.environ.get("BOOKING_URL", "")


async def answer(request: Request) -> AsyncIterator[str]:
    async with aiohttp.ClientSession(URL) as http:

        async def plan(text: str) -> object:
            async with http.post("/plan", json=text) as response:
                return await response.json()

        async def book(day: str, idempotency_key: str) -> object:
            async with http.post("/book", json=day, headers={"Idempotency-Key": idempotency_key}) as response:
                return await response.json()

        planned = await request.ask_model(plan, request.text)
        yield planned["say"]
        booked = await request.once("book", book, planned["day"])
        async with http.post("/tell", json=booked) as response:
            async for token in response.content.iter_any():
                yield token.decode()
