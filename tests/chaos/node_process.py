"""A node in a process of its own: the whole service, with stubs in its ports. `python -m … REDIS_URL POLICY NOTES`

It prints `ready URL`; SIGTERM drains it. NOTES is a file that gets a line for everything the ports were asked to do.
"""

import asyncio
import json
import logging
import os
import random
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from cli.terminal import run
from orchestrator.app import Orchestrator
from orchestrator.services.ports import Answer, Intent, Request, SpeechChunk
from orchestrator.settings import Settings
from tests.chaos.questions import answer_to, intent_of

SLOW_S = 0.4
"""Now and then: so that there are questions open whenever something dies."""
MOST_KNOWN = 10_000
"""Answers that are remembered: those of some minutes. What is asked again after a take-over is seconds old."""


class Ports:
    """All four. They remember what they were asked under which key, and answer a repetition from memory, as
    docs/services.md allows; so a key that stands for two questions shows in the log as a wrong answer.
    """

    def __init__(self, notes: Path) -> None:
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._known: dict[str, str] = {}

    async def _question(self, stage: str, request: Request) -> str:
        note = {"key": request.idempotency_key, "stage": stage, "text": request.text}
        os.write(self._notes, json.dumps(note).encode() + b"\n")  # at once: the process may die any moment
        chance = random.Random(request.idempotency_key)
        await asyncio.sleep(SLOW_S if chance.random() < 0.05 else chance.uniform(0, 0.02))
        answer = self._known.setdefault(request.idempotency_key, request.text)
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]
        return answer

    async def classify(self, request: Request) -> Intent:
        return Intent(intent_of(await self._question("intent", request)), 900)

    async def answer(self, request: Request) -> Answer:
        return Answer(answer_to(await self._question("answer", request)))

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        raise NotImplementedError("these are conversations in text")
        yield

    async def open(self, on_transcript: object, on_error: object, speaker: object = None) -> object:
        raise NotImplementedError("these are conversations in text")


async def main(redis_url: str, policy: Path, notes: Path) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    mine = notes.with_name(f"data-{os.getpid()}")
    settings = Settings(
        port=0, redis_url=redis_url, data_dir=mine, policy_file=policy, max_sessions=10_000, auth="none"
    )
    ports = Ports(notes)
    async with Orchestrator(
        settings, intent=ports, answer=ports, text_to_speech=ports, speech_to_text=ports
    ) as service:
        print(f"ready {service.url}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
