"""An agent whose answer comes as from a language model: `orch serve bench.streaming_agent:agent`."""

import asyncio
from collections.abc import AsyncIterator

from orchestrator import Request

FIRST_S, TOKEN_S = 0.3, 0.03
ANSWER = "We are open from eight to six on weekdays. On Saturdays we open at nine. On Sundays we are closed."


async def agent(request: Request) -> AsyncIterator[str]:
    await asyncio.sleep(FIRST_S)
    for word in ANSWER.split():
        yield word + " "
        await asyncio.sleep(TOKEN_S)
