"""Real calls whose process goes away, for the figures of the long form; what must hold is in tests/calls."""

import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

from tests.calls.moving import Moving

Going = Callable[[Moving], Awaitable[None]]


async def killed_while_it_speaks(moving: Moving) -> None:
    await moving.asked("what can you do")
    await moving.caller.peer.hears_agent(within_s=10)
    await moving.kill_the_owner()


async def killed_while_it_thinks(moving: Moving) -> None:
    moving.caller.on_phase["THINKING"] = moving.kill_the_owner_now
    await moving.asked("what can you do", reply=False)


async def drained_while_it_speaks(moving: Moving) -> None:
    await moving.asked("what can you do")
    await moving.caller.peer.hears_agent(within_s=10)
    await moving.drain_the_owner()


GOINGS: dict[str, Going] = {
    "kill -9 while it speaks": killed_while_it_speaks,
    "kill -9 while it thinks": killed_while_it_thinks,
    "SIGTERM while it speaks": drained_while_it_speaks,
}


async def silence(go: Going) -> float:
    """Seconds of the longest silence, from the moment the process went away until the answer was heard to its end."""
    async with AsyncExitStack() as stack:
        moving = await Moving.start(stack, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        await go(moving)
        await moving.heard_to_its_end()
        heard = [moving.gone_s, *moving.caller.audible(moving.gone_s)]
        return max(later - earlier for earlier, later in pairwise(heard))
