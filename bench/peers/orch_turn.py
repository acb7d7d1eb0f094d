"""The turn in orch: a node with its own Redis, the policy of docs/coming-from-pipecat.md, and OpenAI's client.

`agent` answers with a pydantic-ai agent, orch's adapter; `function` with a generator over OpenAI's client, like the
example of docs/coming-from-pipecat.md. The stubs are the voice and the handler, which has played all it got at once.
"""

import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from importlib.metadata import version
from pathlib import Path

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from bench.peers.worker import QUESTION, SAMPLE_RATE_HZ, TOKENS, Framework, serve
from bench.turn_latency import Marks, StubClient, StubHandler
from cli.terminal import run as run_loop
from events.derived import StateChanged
from events.envelope import Event
from events.inputs import BargeIn, HandlerAttached, SessionCloseRequested, SttFinal
from orchestrator.port_filling import users_ports
from orchestrator.runtime.effects.effects import Services
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from orchestrator.services.ports import Request, SpeechChunk
from orchestrator.session.policy import Policy

ROLES = {"user": "user", "agent": "assistant"}


def agent(url: str) -> object:
    model = OpenAIChatModel("local", provider=OpenAIProvider(base_url=url, api_key="key"))
    return Agent(model, instructions="Be brief.", model_settings={"max_tokens": TOKENS})


def function(url: str) -> object:
    model = AsyncOpenAI(base_url=url, api_key="key")

    async def answer(request: Request) -> AsyncIterator[str]:
        messages = [{"role": "system", "content": "Be brief."}]
        messages += [{"role": ROLES[line.role], "content": line.text} for line in request.conversation]
        messages += [{"role": "user", "content": request.text}]
        stream = await model.chat.completions.create(
            model="local", messages=messages, stream=True, max_completion_tokens=TOKENS
        )
        async with stream:
            async for chunk in stream:
                yield chunk.choices[0].delta.content or ""

    return answer


class Orch(Framework):
    def __init__(self, node: Node, sessions: "dict[str, Orch]") -> None:
        super().__init__()
        self._node = node
        self._sessions = sessions
        self._session_id = ""

    async def begin(self) -> None:
        if self._session_id:
            del self._sessions[self._session_id]
            self._node.report(SessionCloseRequested(session_id=self._session_id))
        self.idle.clear()
        live = self._node.open_session(StubClient())
        self._session_id = live.session_id
        self._sessions[live.session_id] = self
        await self.idle.wait()
        live.handler = SoundCard(self)
        self._node.report(HandlerAttached(session_id=self._session_id, handler_id="fastrtc_bench"))

    async def final(self) -> None:
        self._node.report(SttFinal(session_id=self._session_id, text=QUESTION))

    async def interrupt(self) -> None:
        self._node.report(BargeIn(session_id=self._session_id))


class Voice:
    def __init__(self, sessions: dict[str, Orch]) -> None:
        self._sessions = sessions

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        yield SpeechChunk(await self._sessions[request.session_id].synthesize(request.text), SAMPLE_RATE_HZ)


class SoundCard(StubHandler):
    def __init__(self, orch: Orch) -> None:
        super().__init__(Marks())
        self.orch = orch

    async def write(self, chunk: SpeechChunk) -> None:
        self.orch.mark("first audio")


def node_of(redis: str, answer: object, sessions: dict[str, Orch]) -> Node:
    """The node of these sessions, which it wakes when they listen."""

    def observe(live: LiveSession, event: Event) -> None:
        if isinstance(event, StateChanged) and event.to_phase == "LISTENING" and live.session_id in sessions:
            sessions[live.session_id].idle.set()

    (port,) = users_ports(answer=answer)["answer"]
    services = Services(None, port, Voice(sessions), None)
    return Node(redis, services, observer=observe, policy=Policy(intent={"skip": True}))


async def main(answer: str, url: str, count: int) -> None:
    sessions: dict[str, Orch] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedRedis(Path(folder)) as redis:
            node = node_of(redis, {"agent": agent, "function": function}[answer](url), sessions)
            await node.start()
            await serve([Orch(node, sessions) for _ in range(count)], version("orch-voice"))
            await node.stop()


if __name__ == "__main__":
    run_loop(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
