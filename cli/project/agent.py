"""The agent: `orch serve agent` runs it, `orch serve agent --reload` while you change it."""

from collections.abc import AsyncIterator
from pathlib import Path

from orchestrator import Orchestrator, Request, Settings

HERE = Path(__file__).parent


async def answer(request: Request) -> AsyncIterator[str]:
    """Answer a caller. Each sentence is spoken as soon as it is there."""
    yield f"You said: {request.text}. "
    yield "Say in agent.py what I answer."


def agent() -> Orchestrator:
    """The service: your answers and policy; speech services of your own go in here, too."""
    return Orchestrator(Settings(policy_file=HERE / "policy.yaml"), answer=answer)
