"""Two services over one Redis and a caller in the middle of a call, whose process is about to go away."""

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from redis.asyncio import Redis

from events.envelope import Event
from events.inputs import PlaybackProgress
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import read_log
from tests.calls.roaming import RoamingCaller
from tests.calls.service import Service
from tests.chaos.redis_server import RedisServer
from tests.media.speech import speak
from tests.runtime.laws import check_laws
from tests.runtime.support import soon_in_redis

HEARD_S = 20.0


@dataclass
class Moving:
    """A call, and who can serve it."""

    redis: Redis
    services: list[Service]
    caller: RoamingCaller
    gone_s: float = 0.0
    """When its process was told to go, or killed (time.monotonic)."""

    @classmethod
    async def start(cls, stack: AsyncExitStack, folder: Path, *, agent: str = "", **settings: str) -> Self:
        """The caller is in a call, in LISTENING; the services know each other."""
        server = await stack.enter_async_context(RedisServer())
        redis = await stack.enter_async_context(Redis.from_url(server.url))
        services = [Service(folder / name, agent=agent, ORCH_REDIS_URL=server.url, **settings) for name in ("a", "b")]
        await asyncio.gather(*(stack.enter_async_context(service) for service in services))
        await soon_in_redis(lambda: _know_each_other(redis))
        caller = await stack.enter_async_context(RoamingCaller(services))
        await caller.hears("phase", phase="LISTENING")
        return cls(redis, services, caller)

    @property
    def owner(self) -> Service:
        return next(service for service in self.services if service.url == self.caller.place)

    async def asked(self, text: str, *, reply: bool = True) -> None:
        """The caller asks; the answer is on its way."""
        await self.caller.peer.say(speak(text))
        if reply:
            await self.caller.hears("reply")

    def kill_the_owner_now(self) -> None:
        self.gone_s = time.monotonic()
        self.owner.process.kill()

    async def kill_the_owner(self) -> None:
        """As `kill -9`."""
        owner = self.owner
        self.kill_the_owner_now()
        await owner.process.wait()

    async def drain_the_owner(self) -> int:
        """As a deploy does; returns the exit code."""
        owner, self.gone_s = self.owner, time.monotonic()
        owner.process.send_signal(signal.SIGTERM)
        return await owner.process.wait()

    async def heard_to_its_end(self) -> None:
        """The agent is audible in another call than before, until it listens again."""
        async with asyncio.timeout(HEARD_S):
            while len(self.caller.peers) < 2:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.02)
        try:
            await self.caller.peer.hears_agent(within_s=HEARD_S, after_s=self.gone_s)
            await self.caller.hears("phase", within_s=HEARD_S, phase="LISTENING", reason="playback_done")
        except TimeoutError:
            told = [(round(at_s - self.gone_s, 2), message) for at_s, message in self.caller.messages]
            raise AssertionError(f"the rest was not heard; told since: {[one for one in told if one[0] > 0]}") from None

    async def confirmed(self) -> None:
        """Return when a part of what the agent says was heard, by its log."""

        async def there() -> bool:
            log = await read_log(self.redis, Keys(), self.caller.session_id)
            return any(isinstance(event, PlaybackProgress) and event.position_ms for event in log)

        await soon_in_redis(there)

    async def log(self) -> list[Event]:
        """What was committed of it, which obeys the laws."""
        await check_laws(self.redis, Keys())
        return await read_log(self.redis, Keys(), self.caller.session_id)


async def _know_each_other(redis: Redis) -> bool:
    return bool(await redis.hlen(Keys().nodes) == 2)  # type: ignore[misc]
