"""Measures an answer that a language model writes: to the first audio, in parts, and how fast a barge-in ends it.

The model is a local server in a process of its own (bench/chat_model.py): the first token after 300 ms, then one each
30 ms, 60 tokens, sentences of 12. The agent streams over real HTTP; Redis is real; the voice gives its first chunk
after 50 ms. The same turn with the whole text at once stands beside it. Run: `uv run python -m bench.streaming [TURNS]`
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from bench.chat_model import FIRST_S, SENTENCE, TOKEN_S
from bench.turn_latency import Marks, StubClient, StubHandler, Stubs, figures
from cli.terminal import run as run_loop
from events.derived import StateChanged, UserInterrupted
from events.envelope import Event
from events.inputs import AnswerText, BargeIn, HandlerAttached, SttFinal
from orchestrator.runtime.effects.effects import Services
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from orchestrator.services.ports import Answer, Request, SpeechChunk

TOKENS = 60
SYNTHESIS_S = 0.05
"""To the first chunk of speech of a text."""
OURS = (
    ("begin", "model asked"),
    ("first sentence written", "text committed"),
    ("text committed", "speech asked"),
    ("speech there", "first audio"),
)
"""The parts that are neither the model's nor the voice's."""
LAST = SENTENCE - 1
"""Tokens between the first one and the end of its sentence."""


class Agent(Stubs):
    """Streams a model's answer, token by token or whole; its voice takes its time."""

    def __init__(self, marks: Marks, url: str, http: aiohttp.ClientSession) -> None:
        super().__init__(marks)
        self.is_whole = False
        self._url = url
        self._http = http

    async def stream(self, request: Request) -> AsyncGenerator[str | Answer, None]:
        self.marks.set("model asked")
        asked = {"model": "local", "stream": True, "max_tokens": TOKENS, "messages": []}
        said = ""
        async with self._http.post(f"{self._url}/chat/completions", json=asked) as response:
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                token = json.loads(line[6:])["choices"][0]["delta"]["content"]
                self.marks.set("first token")
                if token.endswith("."):
                    self.marks.set("first sentence written")
                if self.is_whole:
                    said += token
                else:
                    yield token
        if said:
            yield said

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        self.marks.set("speech asked")
        await asyncio.sleep(SYNTHESIS_S)
        self.marks.set("speech there")
        yield SpeechChunk(bytes(8_820), 22_050)


class Watch:
    """Marks committed events."""

    def __init__(self, marks: Marks) -> None:
        self.marks = marks
        self.listening, self.second_text = asyncio.Event(), asyncio.Event()
        self.interrupted_ns = 0

    def __call__(self, live: LiveSession, event: Event) -> None:
        match event:
            case AnswerText(index=0):
                self.marks.set("text committed")
            case AnswerText(index=1):
                self.second_text.set()
            case UserInterrupted():
                self.interrupted_ns = time.monotonic_ns()
            case StateChanged(to_phase="LISTENING"):
                self.listening.set()


class Model:
    """The process of the model."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self.url = url

    async def said_ns(self, name: str) -> int:
        """When it says this next: `asked`, `token`, `sentence` or `aborted`."""
        assert self._process.stdout is not None
        async with asyncio.timeout(10):
            while (line := await self._process.stdout.readline()).decode().split()[0] != name:
                pass
        return int(line.split()[1])


@asynccontextmanager
async def model() -> AsyncIterator[Model]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.chat_model", stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    yield Model(process, (await process.stdout.readline()).decode().strip())
    process.terminate()
    await process.wait()


@asynccontextmanager
async def call(redis: str, agent: Agent, watch: Watch) -> AsyncIterator[tuple[Node, LiveSession]]:
    node = Node(redis, Services(agent, agent, agent, agent), observer=watch)
    await node.start()
    live = node.open_session(StubClient())
    await watch.listening.wait()
    live.handler = StubHandler(agent.marks)
    node.report(HandlerAttached(session_id=live.session_id, handler_id="fastrtc_bench"))
    yield node, live
    await node.stop()


async def first_audio(node: Node, live: LiveSession, agent: Agent, watch: Watch) -> dict[str, float]:
    """One turn to its end: the times of its stations in milliseconds from STT_FINAL."""
    watch.listening.clear()
    agent.marks.at.clear()
    began_ns = time.perf_counter_ns()
    node.report(SttFinal(session_id=live.session_id, text="hello"))
    await watch.listening.wait()
    return {name: (at_ns - began_ns) / 1e6 for name, at_ns in agent.marks.at.items()}


async def barge_in(node: Node, live: LiveSession, watch: Watch, model: Model) -> float:
    """Interrupt the second sentence: milliseconds from USER_INTERRUPTED's commit to the abort that the model sees."""
    watch.listening.clear()
    watch.second_text.clear()
    node.report(SttFinal(session_id=live.session_id, text="hello"))
    await watch.second_text.wait()
    node.report(BargeIn(session_id=live.session_id))
    aborted_ns = await model.said_ns("aborted")
    await watch.listening.wait()
    return (aborted_ns - watch.interrupted_ns) / 1e6


def of(rows: list[dict[str, float]], later: str, earlier: str) -> list[float]:
    return [row[later] - row.get(earlier, 0.0) for row in rows]


async def main(turns: int) -> None:
    marks = Marks()
    streamed: list[dict[str, float]] = []
    whole: list[dict[str, float]] = []
    aborted: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedRedis(Path(folder)) as redis, model() as peer, aiohttp.ClientSession() as http:
            watch, agent = Watch(marks), Agent(marks, peer.url, http)
            async with call(redis, agent, watch) as (node, live):
                await first_audio(node, live, agent, watch)  # the first turn of a process is slower
                for number in range(turns):
                    agent.is_whole = number % 4 == 3
                    (whole if agent.is_whole else streamed).append(await first_audio(node, live, agent, watch))
                    agent.is_whole = False
                    aborted.append(await barge_in(node, live, watch, peer))
    report(streamed, whole, aborted)


def report(streamed: list[dict[str, float]], whole: list[dict[str, float]], aborted: list[float]) -> None:
    least_ms = 1000 * (FIRST_S + LAST * TOKEN_S + SYNTHESIS_S)
    parts: list[tuple[str, str, Any]] = [
        ("the model is asked", "model asked", "begin"),
        ("its first token", "first token", "model asked"),
        ("its first sentence", "first sentence written", "first token"),
        ("the text is committed", "text committed", "first sentence written"),
        ("speech is asked for", "speech asked", "text committed"),
        ("the first chunk is there", "speech there", "speech asked"),
        ("it is handed to playback", "first audio", "speech there"),
    ]
    print(f"{len(streamed)} streamed turns, STT_FINAL → first audio, by parts:")
    for words, later, earlier in parts:
        print(f"  {words:26} {figures(of(streamed, later, earlier))}")
    print(f"  {'in all':26} {figures(of(streamed, 'first audio', 'begin'))}")
    print(f"  {f'beyond {least_ms:.0f} ms':26} {figures([row['first audio'] - least_ms for row in streamed])}")
    ours = [sum(row[b] - row.get(a, 0.0) for a, b in OURS) for row in streamed]
    print(f"  {'of which in orch':26} {figures(ours)}")
    if whole:
        print(f"{len(whole)} turns with the whole text:  {figures(of(whole, 'first audio', 'begin'))}")
    print(f"{len(aborted)} barge-ins in sentence 2: USER_INTERRUPTED committed → request aborted  {figures(aborted)}")


if __name__ == "__main__":
    run_loop(main(int(sys.argv[1]) if len(sys.argv) > 1 else 40))
