"""How long a provider of a fallback may take: its time limit, which does not run while one of its tool calls runs."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from orchestrator.services.journal import JournalPort, PendingToolCall, ProviderJournals, Response

R = TypeVar("R")


class Patience:
    """Limits the wait for a provider's first result, and measures the waits for the next ones, without the time in
    which a tool call is pending. `limit_s`: None for the last provider, which only the policy's deadlines limit.
    """

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s = limit_s
        self._pending = 0
        self._since_s = asyncio.get_running_loop().time()
        self._timeout: asyncio.Timeout | None = None

    async def limit(self, first: Awaitable[R]) -> R:
        """Await the first result. Raises TimeoutError if the limit passes before."""
        try:
            async with asyncio.timeout(self._limit_s) as self._timeout:
                return await first
        finally:
            self._timeout = None

    @property
    def waited_s(self) -> float:
        """Seconds since the wait began; 0 while a tool call is pending."""
        return 0.0 if self._pending else asyncio.get_running_loop().time() - self._since_s

    def restart(self) -> None:
        """Begin the wait, and the time of the limit, anew."""
        self._since_s = asyncio.get_running_loop().time()
        if self._timeout is not None and not self._timeout.expired():
            ends_s = None if self._limit_s is None or self._pending else self._since_s + self._limit_s
            self._timeout.reschedule(ends_s)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Wait without limit while a tool call is pending; then begin anew."""
        self._pending += 1
        self.restart()
        try:
            yield
        finally:
            self._pending -= 1
            self.restart()

    def no_limit(self) -> None:
        """Wait without limit from now on."""
        self._limit_s = None
        self.restart()


class ProviderJournal:
    """The journal of a question for one provider of a fallback. `number`: its place in their order, from 1.

    runs_tools: the provider runs its tools itself and only reports the calls, as an HTTP service does. Then the same id
    from another provider is another call. The first call also ends the time limit: the next provider would make the
    same call again, so it is asked only if this one fails.

    Otherwise orch runs the tools, and the ids that a model gives its calls are left out: the same call of another
    provider's model has another id, and must get the recorded result. Name, arguments and order identify the call.
    """

    def __init__(self, journal: JournalPort, patience: Patience, number: int, *, runs_tools: bool) -> None:
        self._journal = journal
        self._patience = patience
        self._number = number
        self._runs_tools = runs_tools

    def begin(self) -> None:
        if isinstance(self._journal, ProviderJournals):
            self._journal.begin_provider(self._number)
        else:
            self._journal.begin()

    async def call(self, pending: PendingToolCall) -> str:
        if self._runs_tools:
            self._patience.no_limit()
        with self._patience.paused():
            return await self._journal.call(replace(pending, call_id=self._id(pending.call_id)))

    def _id(self, call_id: str) -> str:
        if not self._runs_tools or not call_id:
            return ""
        return call_id if self._number == 1 else f"{call_id}#{self._number}"  # no service may write # in an id

    async def respond(self, ask: Response, request: str) -> str:
        return await self._journal.respond(ask, request)
