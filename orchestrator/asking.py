"""`ask`: an agent's answer to one question, for tests and scripts."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing

from orchestrator.port_filling import enter, users_ports
from orchestrator.services.ports import Answer, Request
from orchestrator.session.conversation import Line


def ask(agent: object, text: str, *, conversation: Sequence[tuple[str, str]] = ()) -> str:
    """The whole answer of an agent to a text: of everything that `Orchestrator(answer=…)` takes.

    `conversation` has the lines before it, oldest first, such as `[("user", "hello"), ("agent", "Hi!")]`. Raises
    TypeError for a thing that cannot answer, and ServiceError when it fails. Not within a running event loop.

    ```python
    def test_the_agent_says_hello():
        assert "Hello" in ask(agent, "good morning")
    ```
    """
    lines = tuple(Line("user" if role == "user" else "agent", said) for role, said in conversation)
    return asyncio.run(_answer(agent, Request(text, "ask", 1, "ask:1", lines)))


async def _answer(agent: object, request: Request) -> str:
    (port,) = users_ports(answer=agent)["answer"]
    async with AsyncExitStack() as stack:
        await enter(port, stack)
        async with aclosing(port.stream(request)) as pieces:
            return "".join([piece.answer if isinstance(piece, Answer) else piece async for piece in pieces])
