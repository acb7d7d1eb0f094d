"""One of several processes of a service: its load, and its messages with the supervisor (cli/processes.py)."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from socket import socket
from typing import Any
from urllib.parse import urlsplit

from orchestrator.siblings.lines import JsonLinesConnection
from orchestrator.siblings.loads import FULL, LATE, UNREADY, Loads
from orchestrator.siblings.pages import merged

logger = logging.getLogger(__name__)

LOOK_S = 0.05
"""Interval of telling the own load and comparing it with those of the others."""
LATE_S, LATEST_WEIGHT = 0.02, 0.1
"""A loop that comes so much later than it wanted, on average over ten looks, is loaded, however few calls it has."""
TELL_EVERY = 5
"""At every fifth look the supervisor hears which shards this process owns, if they have changed."""
ASK_S = 1.0
"""How long the other processes may take for their metrics pages; then the page of all is without the missing ones."""
SILENT_S = 3.0
"""The supervisor tells the lag of the history twice a second. After this much silence the lag grows by itself."""

Page = tuple[bytes, str]
"""A metrics page and its content type."""
MakePage = Callable[[str], Awaitable[Page]]
"""The value of an Accept header → the page of this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The first message of the supervisor. `door`, `operators` and `loads` are inherited file numbers; `operators` is
    negative if there is no address for operators. `number` counts from 1.
    """

    number: int
    door: int
    operators: int
    loads: int
    origins: Sequence[str]
    """Of pages that were loaded through the common door."""
    agent: str
    given: dict[str, Any]
    """Fields of the settings, from the command line and from the supervisor."""


@dataclass(slots=True)
class ServiceProbes:
    """What the service shows of itself: functions, since it changes."""

    connections: Callable[[], int]
    has_room: Callable[[], bool]
    is_ready: Callable[[], bool]
    owned: Callable[[], Mapping[int, str]]
    """Owned shard → fencing token."""
    count: Callable[[Mapping[str, int]], None]
    """Called with what the history has counted since the last call."""
    page: MakePage
    late_s: float = 0.0
    """How late the event loop comes, averaged."""


class Siblings:
    """One of several processes of a service."""

    def __init__(self, facts: Facts, lines: JsonLinesConnection) -> None:
        """`lines`: the connection with the supervisor."""
        self.facts = facts
        self.door = socket(fileno=facts.door)
        """Of callers, listening; all processes have it."""
        self.operators = socket(fileno=facts.operators) if facts.operators >= 0 else None
        self.stopping = asyncio.Event()
        """Set when this process is to stop, also because the supervisor has ended."""
        self.leaving: Collection[str] = ()
        """Addresses of the nodes that stop together with this one: they get none of its calls."""
        self._beside: Collection[str] = ()
        self._loads = Loads(facts.loads, facts.number)
        self._lines = lines
        self._probes: ServiceProbes | None = None
        self._lag_s, self._heard_s = 0.0, time.monotonic()
        self._asked: list[asyncio.Future[dict[str, Any]]] = []
        """Who waits for the address of the console."""
        self._pages: dict[int, asyncio.Future[dict[int, str]]] = {}
        """Question → who waits for the pages of the others."""
        self._answering: set[asyncio.Task[None]] = set()

    @property
    def lag_s(self) -> float:
        """Lag of the history, as HistoryKeeper says it; 0 in all processes but the first, which shows it for all."""
        silent_s = time.monotonic() - self._heard_s
        return self._lag_s + (silent_s if self.facts.number == 1 and silent_s > SILENT_S else 0)

    async def listen(self) -> None:
        """Take the messages of the supervisor. When it ends, all processes stop."""
        while (said := await self._lines.hear()) is not None:
            self._take(said)
        if not self.stopping.is_set():
            logger.warning("the supervisor has ended, so this process stops")
            self.leaving = self._beside
            self.stopping.set()

    def _take(self, said: dict[str, Any]) -> None:
        match said:
            case {"stop": addresses}:
                self.leaving = addresses
                self.stopping.set()
            case {"beside": addresses}:
                self._beside = addresses
            case {"lag_s": lag_s, "counted": counted}:
                self._lag_s, self._heard_s = lag_s, time.monotonic()
                if self._probes is not None:
                    self._probes.count(counted)
            case {"console": _}:
                asked, self._asked = self._asked, []
                for one in asked:
                    _resolve(one, said)
            case {"page_for": question, "accept": accept}:
                answering = asyncio.create_task(self._give_page(question, accept), name="metrics page")
                self._answering.add(answering)
                answering.add_done_callback(self._answering.discard)
            case {"pages": pages, "question": question}:
                if (waiting := self._pages.pop(question, None)) is not None:
                    _resolve(waiting, {int(number): page for number, page in pages.items()})

    def say(self, **words: object) -> None:
        """Tell the supervisor."""
        self._lines.say(**words)

    async def console(self) -> str:
        """The console's address; it is started if need be. Raises OSError."""
        asked: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        self.say(console=True)
        answer = await asked
        if answer["error"]:
            raise OSError(answer["error"])
        return str(answer["console"])

    async def page(self, accept: str) -> Page:
        """The metrics of all processes that answer in time, on one page."""
        assert self._probes is not None, "pages are asked for while it works"
        question = max(self._pages, default=0) + 1
        waiting = self._pages[question] = asyncio.get_running_loop().create_future()
        self.say(pages=accept, question=question)
        body, content_type = await self._probes.page(accept)
        try:
            async with asyncio.timeout(2 * ASK_S):
                others = await waiting
        except TimeoutError:
            others = {}
        finally:
            self._pages.pop(question, None)
        return merged(sorted({**others, self.facts.number: body.decode()}.items())).encode(), content_type

    async def _give_page(self, question: list[int], accept: str) -> None:
        if self._probes is not None:
            body, _ = await self._probes.page(accept)
            self.say(page=body.decode(), question=question)

    def may_accept(self) -> bool:
        """Whether this process has the least to do; it tells its load first."""
        if self._probes is None:
            return False
        self._loads.tell(load_of(self._probes))
        return self._loads.is_least()

    @asynccontextmanager
    async def working(self, probes: ServiceProbes, look: Callable[[], None]) -> AsyncIterator[None]:
        """Tell load and shards of this process. `look` is called every LOOK_S: it opens or closes the common doors."""
        self._probes = probes
        looking = asyncio.create_task(self._look(probes, look), name="siblings")
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            self._probes = None
            look()
            self._loads.leave()

    async def _look(self, probes: ServiceProbes, look: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        owned: Mapping[int, str] = {}
        is_ready, looks = False, 0
        while True:
            try:
                look()
                if looks % TELL_EVERY == 0 and (now := dict(probes.owned())) != owned:
                    self.say(owned=now)
                    owned = now
                if probes.is_ready() != is_ready:
                    is_ready = not is_ready
                    self.say(takes_calls=is_ready)
            except Exception:
                logger.exception("what is told to the other processes broke")
            wanted_s = loop.time() + LOOK_S
            await asyncio.sleep(LOOK_S)
            probes.late_s += LATEST_WEIGHT * (loop.time() - wanted_s - probes.late_s)
            looks += 1

    async def close(self) -> None:
        """Send the last messages, and close the connection with the supervisor."""
        await self._lines.close()


def load_of(probes: ServiceProbes) -> int:
    """How loaded a process is; the least loaded one accepts."""
    return (
        probes.connections()
        + (LATE if probes.late_s > LATE_S else 0)
        + (0 if probes.has_room() else FULL)
        + (0 if probes.is_ready() else UNREADY)
    )


def _resolve(waiting: asyncio.Future[Any], value: object) -> None:
    if not waiting.done():  # else it was cancelled
        waiting.set_result(value)


def with_port_of(own: str, url: str) -> str:
    """A URL with the port of the process's own one; empty as it is.

    >>> with_port_of("http://127.0.0.1:8082", "https://calls.example")
    'https://calls.example:8082'
    """
    if not url:
        return ""
    named = urlsplit(url)
    host = f"[{named.hostname}]" if ":" in (named.hostname or "") else named.hostname
    return named._replace(netloc=f"{host}:{urlsplit(own).port}").geturl()
