"""The process of one framework: runs the turns that its parent asks for on stdin, and prints their times.

Needs nothing but the standard library: each framework runs in an environment of its own. Times are nanoseconds of
CLOCK_MONOTONIC, which processes share.
"""

import asyncio
import json
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

SYNTHESIS_S = 0.05
"""To the first chunk of speech of a text."""
SAMPLE_RATE_HZ = 24_000
SPEECH = bytes(SAMPLE_RATE_HZ // 5 * 2)
"""200 ms, the one chunk of each text."""
TOKENS = 60
QUESTION = "When is the shop open?"
LIMIT_S = 20
EVERY_S = 6.0
"""Between the questions of a session, where many talk at once."""


class Framework(ABC):
    """One session, with stubs for recogniser, synthesiser and sound card."""

    def __init__(self) -> None:
        self.at: dict[str, int] = {}
        self.texts = 0
        """Of this turn, at the synthesiser."""
        self.second_text, self.idle = asyncio.Event(), asyncio.Event()

    def mark(self, name: str) -> None:
        self.at.setdefault(name, time.monotonic_ns())

    async def synthesize(self, text: str) -> bytes:
        """The stub: the same delay and the same sound in each framework."""
        self.mark("speech asked")
        self.texts += 1
        if self.texts == 2:
            self.second_text.set()
        await asyncio.sleep(SYNTHESIS_S)
        self.mark("speech there")
        return SPEECH

    @abstractmethod
    async def begin(self) -> None:
        """An empty conversation, in which the user begins to speak, some time before the final transcript."""

    @abstractmethod
    async def final(self) -> None:
        """The recogniser's final transcript and its end of the turn."""

    @abstractmethod
    async def interrupt(self) -> None:
        """The user interrupts the agent."""


async def turn(framework: Framework, is_interrupted: bool) -> dict[str, int]:
    """One turn, to its end or interrupted in the second sentence."""
    await framework.begin()
    await asyncio.sleep(0.1)
    framework.at.clear()
    framework.texts = 0
    framework.second_text.clear()
    framework.idle.clear()
    framework.mark("begin")
    await framework.final()
    if is_interrupted:
        await framework.second_text.wait()
        framework.mark("interrupted")
        await framework.interrupt()
    await framework.idle.wait()
    return framework.at


async def questions(framework: Framework, seed: int, count: int) -> list[dict[str, int]]:
    """A question each EVERY_S, the first one at some time within that; a late answer delays the next question."""
    loop = asyncio.get_running_loop()
    due_s = loop.time() + random.Random(seed).random() * EVERY_S
    asked = []
    for _ in range(count):
        await asyncio.sleep(due_s - loop.time())
        asked.append(dict(await turn(framework, is_interrupted=False)))
        due_s = max(due_s + EVERY_S, loop.time())
    return asked


async def serve(sessions: Sequence[Framework], version: str) -> None:
    """Print the version, then times for each line of stdin: of one `turn` or `interrupted turn` of the first session,
    or of `questions COUNT` from each session.
    """
    print(json.dumps(version), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.startswith("questions"):
            count = int(line.split()[1])
            async with asyncio.timeout(LIMIT_S + count * EVERY_S):
                asked = await asyncio.gather(*(questions(one, at, count) for at, one in enumerate(sessions)))
            print(json.dumps([times for one in asked for times in one]), flush=True)
        else:
            async with asyncio.timeout(LIMIT_S):
                print(json.dumps(await turn(sessions[0], line.startswith("interrupted"))), flush=True)
