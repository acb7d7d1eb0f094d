"""An outside program that sends events as docs/producers.md says, and remembers what it was told."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.runtime.redis.connection import connect
from orchestrator.runtime.redis.keys import Keys
from tests.chaos.questions import question

BACKOFF_S = 0.05
PARTIALS = 4
"""Before each final."""
REPEATED = 0.01
"""So many events are sent twice, though the first was acknowledged."""


@dataclass
class Producer:
    """Stop-and-wait: the next event leaves when Redis has acknowledged the last; what was not is sent again."""

    url: str
    ingress: str
    chance: random.Random
    name: str = field(default_factory=lambda: f"chaos-{uuid4().hex[:12]}")
    acknowledged: list[tuple[str, int]] = field(default_factory=list)
    """Session and sequence number, in the order they were sent."""
    repeated: int = 0
    _sequence: int = 0
    _said: dict[str, int] = field(default_factory=dict)

    async def run(self, sessions: list[str], rate_hz: float, stop: asyncio.Event) -> None:
        """Go round the sessions until told to stop. What an outage delays is not made up for in a burst."""
        async with connect(self.url, 4) as redis:
            loop = asyncio.get_running_loop()
            due = loop.time()
            while not stop.is_set():
                for session_id in sessions:
                    await self._send(redis, session_id)
                    due = max(due + 1 / rate_hz, loop.time() - 0.5)
                    await asyncio.sleep(max(0.0, due - loop.time()))

    async def _send(self, redis: Redis, session_id: str) -> None:
        self._sequence += 1
        said = self._said[session_id] = self._said.get(session_id, -1) + 1
        words = question(said // (PARTIALS + 1) + 1, session_id)
        is_final = said % (PARTIALS + 1) == PARTIALS
        event = {
            "type": "STT_FINAL" if is_final else "STT_PARTIAL",
            "text": words if is_final else words[: 8 + said % (PARTIALS + 1)],
            "via": "text",
            "session_id": session_id,
            "producer": self.name,
            "producer_seq": self._sequence,
            "observed_at_us": time.time_ns() // 1_000,
        }
        await self._append(redis, json.dumps(event))
        self.acknowledged.append((session_id, self._sequence))
        if self.chance.random() < REPEATED:
            self.repeated += 1
            await self._append(redis, json.dumps(event))

    async def _append(self, redis: Redis, line: str) -> None:
        while True:
            try:
                await redis.xadd(self.ingress, {"e": line})
            except (RedisError, OSError):  # it may have arrived all the same
                await asyncio.sleep(BACKOFF_S)
            else:
                return


def producers(url: str, keys: Keys, count: int, chance: random.Random) -> list[Producer]:
    """Each keeps to one of the four ingresses."""
    return [Producer(url, keys.ingress(n % 4), random.Random(chance.random())) for n in range(count)]
