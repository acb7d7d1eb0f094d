"""What stands at the edge in the runtime tests: ports, handler, client and observer, all of them scripted."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from events.derived import StateChanged
from events.envelope import Event
from orchestrator.runtime.effects.effects import Services
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node
from orchestrator.runtime.redis.keys import Keys
from orchestrator.services.ports import Answer, Intent, Request, SpeechChunk
from projections.golden_log import golden

PATIENCE_S = 15.0
"""How long a test waits for a condition that ought to come true at once."""
CHUNK = SpeechChunk(bytes(2 * 1_600), 16_000)
"""100 ms of silence."""

E = TypeVar("E", bound=Event)


class Stubs:
    """All four ports. `hold(stage)` makes a stage wait for `release(stage)`; `broken[stage]` makes it raise."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Request]] = []
        self.broken: dict[str, Exception] = {}
        self.chunks = 3
        self.cancelled: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    def hold(self, stage: str) -> None:
        self._gates[stage] = asyncio.Event()

    def release(self, stage: str) -> None:
        self._gates.pop(stage).set()

    def keys(self, stage: str) -> list[str]:
        """The idempotency keys under which a stage was asked."""
        return [request.idempotency_key for name, request in self.asked if name == stage]

    async def _stage(self, stage: str, request: Request) -> None:
        self.asked.append((stage, request))
        if stage in self.broken:
            raise self.broken[stage]
        if stage in self._gates:
            try:
                await self._gates[stage].wait()
            except asyncio.CancelledError:
                self.cancelled.append(stage)
                raise

    async def classify(self, request: Request) -> Intent:
        await self._stage("intent", request)
        return Intent("greeting", 900)

    async def answer(self, request: Request) -> Answer:
        await self._stage("answer", request)
        return Answer(f"You said {request.text}.")

    async def stream(self, request: Request) -> AsyncIterator[str | Answer]:
        yield await self.answer(request)

    async def synthesize(self, request: Request) -> AsyncIterator[SpeechChunk]:
        await self._stage("speech", request)
        for _ in range(self.chunks):
            yield CHUNK

    async def open(self, on_transcript: object, on_error: object, speaker: object = None) -> Any:
        raise NotImplementedError("no microphone in these tests")

    def services(self) -> Services:
        return Services(self, self, self, self)


@dataclass
class End:
    confirmed_by: Literal["client", "timer"] = "client"
    position_ms: int = 300


class StubHandler:
    """A media connection that plays at once and notes what it is told."""

    unheard_ms = 0

    def __init__(self, handler_id: str = "fastrtc_1", *, plays_to_the_end: bool = True) -> None:
        self.handler_id = handler_id
        self.told: list[str] = []
        self.closed = False
        self._plays_to_the_end = plays_to_the_end
        self._start: Callable[[], None] | None = None
        self._progress: Callable[[int], None] | None = None

    async def connected(self) -> bool:
        return True

    def play(
        self, playback_id: str, on_started: Callable[[], None], on_progress: Callable[[int], None]
    ) -> "StubHandler":
        self.told.append(f"play {playback_id}")
        self._start, self._progress = on_started, on_progress
        return self

    async def write(self, chunk: SpeechChunk) -> None:
        assert self._progress is not None
        if self._start is not None:
            self._start()
            self._start = None
        else:
            self._progress(100)

    async def finish(self) -> End:
        if not self._plays_to_the_end:
            await asyncio.Event().wait()
        return End()

    def set_microphone(self, setting: str) -> None:
        self.told.append(f"microphone {setting}")

    def finish_utterance(self) -> None:
        self.told.append("finish utterance")

    def pause(self, playback_id: str) -> None:
        self.told.append(f"pause {playback_id}")

    def resume(self, playback_id: str) -> None:
        self.told.append(f"resume {playback_id}")

    def stop(self, playback_id: str) -> None:
        self.told.append(f"stop {playback_id}")

    def client_confirmed(self, playback_id: str) -> None:
        self.told.append(f"confirmed {playback_id}")

    async def close(self) -> None:
        self.closed = True


class StubClient:
    """A control connection that notes what it is shown."""

    def __init__(self, client_id: str = "browser-1") -> None:
        self.client_id = client_id
        self.shown: list[str] = []
        self.ended: list[str] = []
        self.sent_away: list[str] = []
        self.sent_to: list[str] = []
        self.warned: list[str] = []

    def committed(self, event: Event, line: str | None) -> None:
        """Shown by what the observer sees."""

    async def show_reply(self, playback_id: str, text: str) -> None:
        self.shown.append(text)

    def clear_text(self) -> None:
        """Forget the partial transcript; replies stay."""

    def warn(self, code: str, message: str) -> None:
        self.warned.append(code)

    async def close(self, reason: str) -> None:
        self.ended.append(reason)

    async def send_away(self, reason: str, address: str = "") -> None:
        self.sent_away.append(reason)
        self.sent_to.append(address)


class Watch:
    """The observer of a node: remembers what was committed and lets a test wait for what is to come."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = defaultdict(list)
        self.on_commit: Callable[[LiveSession, Event], None] = lambda live, event: None
        self._wake: set[asyncio.Event] = set()

    def __call__(self, live: LiveSession, event: Event) -> None:
        self.events[live.session_id].append(event)
        self.on_commit(live, event)
        for wake in self._wake:
            wake.set()

    async def until(self, what: Callable[[], bool], words: str = "the condition") -> None:
        """Wait until something holds; looked at whenever an event was committed."""
        wake = asyncio.Event()
        self._wake.add(wake)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not what():
                    wake.clear()
                    await wake.wait()
        except TimeoutError:
            raise AssertionError(f"{words} never came; committed: {self.summary()}") from None
        finally:
            self._wake.discard(wake)

    async def event(self, session_id: str, kind: type[E], number: int = 1, **fields: Any) -> E:
        """The n-th event of a kind with these fields, as soon as it is committed."""
        await self.until(lambda: len(self.all(session_id, kind, **fields)) >= number, f"{kind.__name__} {fields}")
        return self.all(session_id, kind, **fields)[number - 1]

    async def phase(self, session_id: str, phase: str, number: int = 1) -> None:
        """The n-th time a session enters a phase."""
        await self.event(session_id, StateChanged, number, to_phase=phase)

    def all(self, session_id: str, kind: type[E], **fields: Any) -> list[E]:
        return [
            event
            for event in self.events[session_id]
            if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
        ]

    def golden(self, session_id: str) -> list[str]:
        return golden(self.events[session_id])

    def summary(self) -> str:
        return "; ".join(f"{sid}: {[type(e).__name__ for e in events]}" for sid, events in self.events.items())


@dataclass
class Running:
    """A node with its edge."""

    node: Node
    stubs: Stubs
    watch: Watch
    clients: list[StubClient] = field(default_factory=list)

    async def listening(self, client: StubClient | None = None) -> LiveSession:
        """A session whose client is connected."""
        client = client or StubClient()
        self.clients.append(client)
        live = self.node.open_session(client)
        await self.watch.phase(live.session_id, "LISTENING")
        return live

    async def two_listening(self, slow: StubClient) -> tuple[LiveSession, LiveSession]:
        """Two sessions on different shards: the first with the client `slow`."""
        first = await self.listening(slow)
        while True:
            second = await self.listening()
            if self.node.keys.shard_of(second.session_id) != self.node.keys.shard_of(first.session_id):
                return first, second

    def lose_everything(self) -> None:
        """As after a restart of Redis: the node gives all shards and ingresses up, and takes them again."""
        ownership = self.node._ownership
        for holding in ownership.running.values():
            holding.server = "before the restart"
        ownership.wake.set()


async def soon(what: Callable[[], bool], words: str = "the condition") -> None:
    """Wait for something that no event announces."""
    async with asyncio.timeout(PATIENCE_S):
        while not what():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.002)


async def soon_in_redis(what: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something in Redis that nobody announces."""
    async with asyncio.timeout(PATIENCE_S):
        while not await what():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.005)


def a_session_on(keys: Keys, shard: int, salt: str = "") -> str:
    """A session id that belongs to this shard."""
    return next(sid for n in range(10_000) if keys.shard_of(sid := f"auto_session_{salt}{n}") == shard)
