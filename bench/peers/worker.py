"""The process of one framework: runs the turns that its parent asks for on stdin, and prints the times of each.

Needs nothing but the standard library: each framework runs in an environment of its own. Times are nanoseconds of
CLOCK_MONOTONIC, which processes share.
"""

import asyncio
import json
import sys
import time
from abc import ABC, abstractmethod

SYNTHESIS_S = 0.05
"""To the first chunk of speech of a text."""
SAMPLE_RATE_HZ = 24_000
SPEECH = bytes(SAMPLE_RATE_HZ // 5 * 2)
"""200 ms, the one chunk of each text."""
TOKENS = 60
QUESTION = "When is the shop open?"
LIMIT_S = 20


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


async def serve(framework: Framework, version: str) -> None:
    """Print the version, then the times of a turn for each line of stdin: `turn` or `interrupted turn`."""
    print(json.dumps(version), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        async with asyncio.timeout(LIMIT_S):
            print(json.dumps(await turn(framework, line.startswith("interrupted"))), flush=True)
