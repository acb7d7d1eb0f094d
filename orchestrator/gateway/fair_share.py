"""Shares what the node can handle between its callers: who sends more than their share waits, the others do not notice.

Each conversation has a rate of its own, the node has one for all. Where more is wanted than that, conversations take
turns, and those who keep to their rate and have nothing else waiting come first: a caller who sends one thing and waits
for the answer is not behind those who send without waiting. When the event loop is late, the node takes less, so that
what it does is done in time (docs/decisions/023).
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.runtime.counters import Counters
from orchestrator.token_bucket import TokenBucket

logger = logging.getLogger(__name__)

INPUTS_PER_MINUTE = 360
"""Of one conversation: faster than anybody types. A setting, since each may be a paid call of a model."""
BURST = 10
"""What one conversation may have handled in one go."""
PER_LINE_PER_S = 2.0
"""Of the node, for each line it has: people who type take some seconds for a message."""
FEWEST_LINES = 20
HASTY_PER_S = 10.0
"""Of all conversations together that are hasty: they have more waiting already, or sent the last ones too fast."""
FREE_IN_A_ROW = 2
"""Inputs that one conversation may send at once without being hasty."""
TICK_S = 0.05
LATE_S = 0.02
"""An event loop that wakes so late is busy: what callers notice is a few times as much."""
LEAST = 0.25
"""Of its rate the node takes at least this part."""


@dataclass(slots=True, eq=False)
class Share:
    """What one conversation may send, over all its connections."""

    inputs: TokenBucket
    connections: TokenBucket = field(default_factory=lambda: TokenBucket(1.0, BURST))
    typed_chars: int = 0
    turns: TokenBucket | None = None
    """What the grant of the conversation allows; None: any number."""


@dataclass(slots=True, eq=False)
class _Waiting:
    is_hasty: Callable[[], bool]
    turn: asyncio.Future[None]


class FairShare:
    """One node's. `async with` it: a task hands out turns and watches how late the loop is."""

    def __init__(self, lines: int, counters: Counters) -> None:
        self._per_s = PER_LINE_PER_S * max(lines, FEWEST_LINES)
        self._all = TokenBucket(self._per_s, self._per_s / 4)
        self._hasty = TokenBucket(HASTY_PER_S, HASTY_PER_S / 4)
        self._counters = counters
        self._queue: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._ease = 1.0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "FairShare":
        self._tasks = [
            asyncio.create_task(self._hand_out(), name="fair share"),
            asyncio.create_task(self._watch(), name="fair share:lateness"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """Inputs that wait for their turn."""
        return len(self._queue)

    async def turn(self, share: Share, has_more: Callable[[], bool]) -> None:
        """Return when this conversation may have one more input handled. `has_more`: it has sent more than that."""
        is_fast = share.inputs.left < BURST - FREE_IN_A_ROW + 1
        await asyncio.sleep(share.inputs.reserve(math.inf) or 0)

        def is_hasty() -> bool:
            return is_fast or has_more()

        if not self._queue and (not is_hasty() or self._hasty.take()) and self._all.take():
            return
        self._counters["inputs_delayed"] += 1
        waiting = _Waiting(is_hasty, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._wake.set()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                self._queue.remove(waiting)
            raise

    async def _hand_out(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                if pause_s := self._all.wait_s():
                    await asyncio.sleep(pause_s)
                elif (one := self._next()) is None:
                    await self._next_comer(min(TICK_S, self._hasty.wait_s()))
                else:
                    self._queue.remove(one)
                    self._all.take()
                    if not one.turn.done():
                        one.turn.set_result(None)

    async def _next_comer(self, longest_s: float) -> None:
        """Wait until somebody else comes, who may have nothing else waiting, or until the time is over."""
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._wake.wait()

    def _next(self) -> _Waiting | None:
        """Each conversation waits once at most, so the first come is whose turn it is."""
        for one in self._queue:
            if not one.is_hasty():
                return one
        return self._queue[0] if self._hasty.take() else None

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            is_late = loop.time() - due_s > LATE_S
            self._ease = max(LEAST, self._ease * 0.8) if is_late else min(1.0, self._ease + 0.01)
            self._all.per_s = self._per_s * self._ease
            self._hasty.per_s = HASTY_PER_S * self._ease
