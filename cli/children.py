"""Runs the processes of `orch serve --processes N`: starts, watches, restarts and stops them, and answers them."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from cli.child import Child, spawn
from cli.console_process import ConsoleProcess
from cli.terminal import UsageError, words
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.history.supervisor import HistoryKeeper
from orchestrator.siblings.loads import Loads
from orchestrator.siblings.siblings import ASK_S, Facts

logger = logging.getLogger(__name__)

HUNG_S = 15.0
"""A process whose event loop has not turned within this time is killed. Others have taken over its calls before."""
TAKES_CALLS_S = 10.0
"""How long a start or restart waits until a process takes calls: the others give it shards a lease after it came."""
FEWEST_S, MOST_S = 0.25, 30.0
"""Backoff between an end that nobody asked for and the next start. It doubles until the process was ready."""
TELL_EVERY_S = 0.5
"""Interval of telling what the history reports, for the metrics, and of looking whether a process hangs."""


@dataclass(slots=True)
class _Question:
    """A process that has been asked for the metrics of all, and the pages that have come so far."""

    asker: Child
    number: int
    awaited: set[int]
    pages: dict[int, str] = field(default_factory=dict)
    giving_up: asyncio.TimerHandle | None = None


class Children:
    """All processes of the service."""

    def __init__(self, facts: list[Facts], url: str, console: ConsoleProcess) -> None:
        self.url = url
        self.counters = Counters()
        """Of the history."""
        self.history: HistoryKeeper | None = None
        self._facts = facts
        self._console = console
        self._children: dict[int, Child] = {}
        self._loads = {one.number: Loads(one.loads, one.number) for one in facts}
        self._ready = {one.number: asyncio.Event() for one in facts}
        self._takes_calls = {one.number: asyncio.Event() for one in facts}
        self._failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """What a process says that could not start while all are started."""
        self._is_started = False
        self._stopping = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []
        self._restarting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._questions: dict[tuple[int, int], _Question] = {}

    def owned(self) -> dict[int, str]:
        """The shards of all processes: shard → fencing token."""
        return {number: token for child in self._children.values() for number, token in child.owned.items()}

    async def start(self, stop: asyncio.Event) -> bool:
        """Start all, and wait until each takes calls, if the fleet lets it; False: `stop` was set before. Raises
        UsageError if one cannot start.
        """
        self._running = [asyncio.create_task(self._keep(one), name=f"process {one.number}") for one in self._facts]
        ready = asyncio.gather(*(one.wait() for one in self._ready.values()))
        stopped = asyncio.create_task(stop.wait())
        first: list[asyncio.Future[Any]] = [ready, self._failed, stopped]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        stopped.cancel()
        if self._failed.done():
            raise UsageError(self._failed.result())
        self._is_started = True
        self._do(self._tell())
        first = [asyncio.gather(*(one.wait() for one in self._takes_calls.values())), asyncio.create_task(stop.wait())]
        await asyncio.wait(first, timeout=TAKES_CALLS_S, return_when=asyncio.FIRST_COMPLETED)
        for one in first:
            one.cancel()
        return not stop.is_set()

    async def stop(self) -> None:
        """Stop all at once; none of their calls goes from one to another."""
        self._stopping.set()
        for child in [*self._children.values()]:
            child.stop(self._addresses())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._running, *self._tasks, return_exceptions=True)

    def restart(self) -> None:
        """Restart all, one after the other. Does nothing while they are started or restarted."""
        if self._is_started and (self._restarting is None or self._restarting.done()):
            self._restarting = self._do(self._restart())

    def _do(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _addresses(self) -> list[str]:
        return [child.address for child in self._children.values() if child.address]

    async def _restart(self) -> None:
        logger.info("all processes are started again, one after the other")
        for number, ready in self._ready.items():
            if (child := self._children.get(number)) is not None:
                ready.clear()
                self._takes_calls[number].clear()
                child.stop([child.address])
            await ready.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._takes_calls[number].wait(), TAKES_CALLS_S)
        logger.info("all processes are started again")

    async def _keep(self, facts: Facts) -> None:
        """Run one of the processes, and start it again whenever it ends."""
        pause_s, ready = FEWEST_S, self._ready[facts.number]
        while not self._stopping.is_set():
            try:
                why = await self._run(facts)
            except OSError as error:
                why = f"it cannot be started: {words(error)}"
            except Exception as error:
                logger.exception("what runs process %d broke", facts.number)
                why = f"what runs it broke: {words(error)}"
            was_ready = ready.is_set()
            ready.clear()
            if not why:
                continue
            if not self._is_started:
                if not self._failed.done():
                    self._failed.set_result(why)
                return
            pause_s = FEWEST_S if was_ready else min(MOST_S, 2 * pause_s)
            logger.warning("process %d is started again in %g s: %s", facts.number, pause_s, why)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def _run(self, facts: Facts) -> str:
        """Run one of the processes once. Returns why it ended; empty: it was asked to. Raises OSError."""
        child = self._children[facts.number] = await spawn(facts)
        if self._stopping.is_set():
            child.stop(self._addresses())
        listening = asyncio.create_task(self._listen(child))
        try:
            code = await child.ended(listening)
        finally:
            del self._children[facts.number]
            self._loads[facts.number].leave()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        return "" if child.is_asked else child.error or f"it ended with {code}"

    async def _listen(self, child: Child) -> None:
        """Take what a process says, until it has ended."""
        while (said := await child.lines.hear()) is not None:
            match said:
                case {"ready": address}:
                    self._is_ready(child, address)
                case {"takes_calls": True}:
                    self._takes_calls[child.number].set()
                case {"owned": owned}:
                    child.owned = {int(shard): token for shard, token in owned.items()}
                case {"error": error}:
                    child.error = error
                case {"console": _}:
                    self._do(self._tell_console(child))
                case {"pages": accept, "question": question}:
                    self._ask_all(child, question, accept)
                case {"page": page, "question": [asker, question]}:
                    self._note_page(child, (asker, question), page)

    def _is_ready(self, child: Child, address: str) -> None:
        child.address = address
        if not child.is_asked:
            self._ready[child.number].set()
        for one in self._children.values():
            one.lines.say(beside=self._addresses())

    async def _tell_console(self, child: Child) -> None:
        try:
            child.lines.say(console=await self._console.url(), error="")
        except OSError as error:
            child.lines.say(console="", error=words(error))

    def _ask_all(self, asker: Child, question: int, accept: str) -> None:
        """Ask all processes but the asker for their metrics pages."""
        others = [one for one in self._children.values() if one is not asker and self._ready[one.number].is_set()]
        key = asker.number, question
        asked = self._questions[key] = _Question(asker, question, {one.number for one in others})
        for one in others:
            one.lines.say(page_for=key, accept=accept)
        asked.giving_up = asyncio.get_running_loop().call_later(ASK_S if others else 0, self._give_pages, key)

    def _note_page(self, child: Child, key: tuple[int, int], page: str) -> None:
        if (asked := self._questions.get(key)) is not None:
            asked.pages[child.number] = page
            if asked.pages.keys() == asked.awaited:
                self._give_pages(key)

    def _give_pages(self, key: tuple[int, int]) -> None:
        """Give the asker the pages that have come."""
        if (asked := self._questions.pop(key, None)) is not None:
            if asked.giving_up is not None:
                asked.giving_up.cancel()
            if missing := asked.awaited - asked.pages.keys():
                logger.info("the metrics are without those of process %s", ", ".join(map(str, sorted(missing))))
            asked.asker.lines.say(pages=asked.pages, question=asked.number)

    async def _tell(self) -> None:
        """Tell the first process how far the history is and what it has counted, for all: several would count it
        several times. Kill processes that hang.
        """
        told = Counters()
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            ready = [child for number, child in sorted(self._children.items()) if self._ready[number].is_set()]
            if ready and ready[0].number == self._facts[0].number:
                lag_s = self.history.lag_s if self.history else 0
                ready[0].lines.say(lag_s=lag_s, counted=dict(self.counters - told))
                told = Counters(self.counters)
            for child in ready:
                if self._loads[child.number].silent_s() > HUNG_S:
                    child.kill(f"has not turned its event loop for {HUNG_S:g} s")
