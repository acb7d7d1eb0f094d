"""A node in a process of its own, with one call that waits for its answer: `python -m … URL PREFIX SHARDS LEASE_MS`.

It says what happens in lines on standard output: `asked SESSION`, `sent away`.
"""

import asyncio
import logging
import sys

from events.inputs import SttFinal
from orchestrator.runtime.node import Node
from orchestrator.runtime.redis.keys import Keys
from orchestrator.services.ports import Answer, Request
from tests.runtime.support import StubClient, Stubs, Watch

ANSWER_S = 0.5
"""The test stops the process before the answer is there."""


def say(words: str) -> None:
    print(words, flush=True)


class SlowStubs(Stubs):
    """Their answer takes its time."""

    async def answer(self, request: Request) -> Answer:
        say(f"asked {request.session_id}")
        await asyncio.sleep(ANSWER_S)
        return await super().answer(request)


class TellingClient(StubClient):
    """Says when it is sent away."""

    async def send_away(self, reason: str, address: str = "") -> None:
        say("sent away")


async def main(url: str, prefix: str, shards: int, lease_ms: int) -> None:
    logging.basicConfig(level=logging.WARNING)
    stubs, watch = SlowStubs(), Watch()
    node = Node(url, stubs.services(), observer=watch, keys=Keys(shards, prefix), lease_ms=lease_ms)
    await node.start()
    live = node.open_session(TellingClient())
    await watch.phase(live.session_id, "LISTENING")
    node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
