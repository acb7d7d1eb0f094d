"""Ten callers who behave, five in text and five in calls, and how long each of their turns takes."""

import asyncio
import random
import time
from contextlib import AsyncExitStack

import aiohttp

from tests.calls.service import Caller, Service
from tests.door import joining

PAUSE_S = 0.6, 1.2


class GoodCallers:
    """`took_ms` is where latencies go: text sent → reply, or in a call → the first audio of the answer."""

    def __init__(self, service: Service, *, text: int = 5, voice: int = 5) -> None:
        self.took_ms: list[float] = []
        self.dropped = 0
        self._service = service
        self._kinds = [False] * text + [True] * voice
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "GoodCallers":
        for voice in self._kinds:
            caller = await self._stack.enter_async_context(Caller(self._service, voice=voice))
            self._tasks.append(asyncio.create_task(self._talk(caller, voice=voice)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def _talk(self, caller: Caller, *, voice: bool) -> None:
        try:
            while True:
                await asyncio.sleep(random.uniform(*PAUSE_S))
                caller.messages.clear()
                begun_s = time.perf_counter()
                await caller.send(type="text", text="when are you open")
                await caller.hears("playback_start" if voice else "reply", within_s=30)
                self.took_ms.append((time.perf_counter() - begun_s) * 1_000)
                if not voice:
                    await caller.hears("phase", phase="LISTENING", within_s=30)
        except (TimeoutError, ConnectionError, aiohttp.ClientError):
            self.dropped += 1


async def newcomer_s(service: Service, longest_s: float = 30.0) -> float:
    """How long a new caller needs to be answered, coming back every quarter of a second as the protocol says."""
    begun_s = time.perf_counter()
    async with aiohttp.ClientSession() as http:
        while time.perf_counter() - begun_s < longest_s:
            try:
                async with (
                    asyncio.timeout(longest_s),
                    http.ws_connect(f"{service.url}/orchestrate", **joining({}, service.token())) as socket,
                ):
                    await socket.send_json({"type": "text", "text": "hello"})
                    async for message in socket:
                        if message.json()["type"] == "reply":
                            await socket.send_json({"type": "goodbye"})
                            return time.perf_counter() - begun_s
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass  # refused: it comes back, and the time counts
            await asyncio.sleep(0.25)
    return longest_s
