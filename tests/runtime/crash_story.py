"""A conversation that goes on whatever happens to the process that runs it: its caller, and what is left in the end."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from events.codec import decode_input
from events.derived import AnswerEnded, CommandIssued, EventRejected, StateChanged, TurnEnded
from events.envelope import Event
from events.inputs import ClientConnected, ClientDisconnected, PlaybackStarted, SessionResumed
from events.recording import steps
from orchestrator.runtime.node import Node
from orchestrator.runtime.redis.connection import connect, sha
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import UnknownSessionError, read_log
from orchestrator.session.policy import Deadlines, Interruption, Policy
from tests.runtime.crash_points import FailingProxy
from tests.runtime.support import StubClient, Stubs, Watch, soon, soon_in_redis

FOREVER_MS = 60_000
"""Longer than any run. On a loaded machine time passes without a fault: leases lapse, deadlines are missed, and that is
recovery too, but not what is asked here. So nothing happens because time passed: leases are kept and lapse when the
story says so, and whatever got lost is missed, instead of being made good by a deadline.
"""
POLICY = Policy(
    deadlines=Deadlines(answer_ms=FOREVER_MS, intent_ms=FOREVER_MS, playback_grace_ms=FOREVER_MS, tts_ms=FOREVER_MS),
    interruption=Interruption(pause_ms=5),
)
PRODUCER = "caller"
SCRIPT = ("hello", "tell me a story", "something else", "")
"""What the caller says; at last they hang up."""
LEASES_KEPT_BEFORE = 3
"""Before they interrupt the story, the node renews its leases."""
STARTS = 3


class Browser(StubClient):
    """It shows a story for as long as nobody interrupts."""

    async def show_reply(self, playback_id: str, text: str) -> None:
        await super().show_reply(playback_id, text)
        if "story" in text:
            await asyncio.Event().wait()


@dataclass
class Story:
    """What the caller knows; it outlives every process of the service."""

    url: str
    keys: Keys
    session_id: str = ""
    accepted: int = 0
    """So many of the caller's words were accepted."""
    browsers: list[Browser] = field(default_factory=list)
    nodes: list[Stubs] = field(default_factory=list)
    """The services of each node."""

    async def live(self, proxy: FailingProxy) -> None:
        """Run the service, and talk to it, to the end of the conversation or of the process."""
        async with connect(self.url) as redis:
            await self._time_passes(redis)
            talking = asyncio.create_task(self._talk(redis, proxy))
            dying = asyncio.create_task(proxy.crashed.wait())
            await asyncio.wait([talking, dying], return_when=asyncio.FIRST_COMPLETED)
            for ended in (dying, talking) if proxy.crashed.is_set() else (dying,):
                ended.cancel()
            await asyncio.gather(dying, return_exceptions=True)
            with contextlib.suppress(asyncio.CancelledError):
                await talking

    async def _time_passes(self, redis: Redis) -> None:
        """What a dead process still held has expired. What it did not get through was never said."""
        await self._leases_expire(redis)
        inbox = await redis.xrange(self.keys.inbox(0))
        if not any(self.session_id.encode() in fields[b"e"] for _, fields in inbox):
            self.session_id = ""

    async def _leases_expire(self, redis: Redis) -> None:
        async for key in redis.scan_iter(match=f"{self.keys.prefix}:*"):
            if key.endswith((b"lease", b":nodes")):
                await redis.delete(key)

    async def _talk(self, redis: Redis, proxy: FailingProxy) -> None:
        node = await self._started(redis, proxy)
        connected = asyncio.create_task(self._stay_connected(node))
        await self._until(redis, lambda log: _count(log, StateChanged, to_phase="LISTENING") >= 1)
        for number, words in enumerate(SCRIPT, 1):
            if self.accepted < number:
                if number == LEASES_KEPT_BEFORE:
                    await _keep_leases(node, proxy)
                await redis.xadd(self.keys.ingress(0), {"e": self._line(number, words)})
                self.accepted = number
            await self._until(redis, DONE[number - 1])
        connected.cancel()
        await node.stop()

    async def _started(self, redis: Redis, proxy: FailingProxy) -> Node:
        """As a supervisor does it: one that does not start is started again."""
        for _ in range(STARTS):
            self.nodes.append(stubs := Stubs())
            node = Node(
                proxy.url, stubs.services(), observer=Watch(), keys=self.keys, policy=POLICY, lease_ms=FOREVER_MS
            )
            try:
                await node.start()
            except RedisError:
                await node.stop()
                await self._leases_expire(redis)
            else:
                return node
        raise AssertionError(f"the node did not start in {STARTS} attempts, though one command failed")

    async def _stay_connected(self, node: Node) -> None:
        """Call; and come back whenever the connection is gone."""
        while True:
            live = node.session(self.session_id)
            if self.session_id == "" and node.ready:
                self.session_id = node.open_session(self._browser()).session_id
            elif live is not None and (not self.browsers or live.client is not self.browsers[-1]):
                node.connect_client(live, self._browser())
            await asyncio.sleep(0.002)

    def _browser(self) -> Browser:
        self.browsers.append(Browser(f"browser-{len(self.browsers) + 1}"))
        return self.browsers[-1]

    def _line(self, number: int, words: str) -> bytes:
        said: dict[str, Any] = {"type": "STT_FINAL", "text": words, "via": "text"}
        event = said if words else {"type": "SESSION_CLOSE_REQUESTED", "reason": "goodbye"}
        return json.dumps(
            event | {"session_id": self.session_id, "producer": PRODUCER, "producer_seq": number}
        ).encode()

    async def _until(self, redis: Redis, what: Callable[[list[Event]], bool]) -> None:
        async def so() -> bool:
            return what(await self.log(redis))

        try:
            await soon_in_redis(so)
        except TimeoutError:
            lines = "\n".join(repr(event) for event in await self.log(redis))
            raise AssertionError(f"the conversation does not go on after:\n{lines}") from None

    async def log(self, redis: Redis) -> list[Event]:
        with contextlib.suppress(UnknownSessionError):
            return await read_log(redis, self.keys, self.session_id)
        return []

    def asked(self) -> dict[tuple[int, str], Counter[str]]:
        """Of each question, by turn and stage: under which idempotency keys it was asked, and how often."""
        questions: dict[tuple[int, str], Counter[str]] = {}
        for stubs in self.nodes:
            for stage, request in stubs.asked:
                questions.setdefault((request.turn, stage), Counter())[request.idempotency_key] += 1
        return questions

    def shown(self) -> list[str]:
        """What the caller was shown, in order; a repetition is once."""
        return [text for text, _ in groupby(text for browser in self.browsers for text in browser.shown)]


async def _keep_leases(node: Node, proxy: FailingProxy) -> None:
    """Let the node look at its leases, in mid-conversation; a look that fails is not waited for."""
    renew = f"EVALSHA {sha('renew')}"
    before = proxy.commands.count(renew)
    node._ownership.wake.set()
    await soon(lambda: proxy.commands.count(renew) > before or proxy.failed != "")


def _count(log: list[Event], kind: type[Event], **fields: Any) -> int:
    return sum(
        isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
        for event in log
    )


DONE: tuple[Callable[[list[Event]], bool], ...] = (
    lambda log: _count(log, TurnEnded) >= 1,
    lambda log: _count(log, PlaybackStarted, turn=2) >= 1,
    lambda log: _count(log, TurnEnded) >= 3,
    lambda log: _count(log, StateChanged, to_phase="ENDED") >= 1,
)
"""When the caller goes on, after each of their words."""

VOLATILE = {
    *("at_us", "cause", "client_id", "command_id", "elapsed_us", "epoch", "event_id", "idempotency_key", "incarnation"),
    *("observed_at_us", "producer", "producer_seq", "saved_us", "session_id", "state_hash", "version"),
}
"""What says who, when and in which order of all things, but not what happened."""


def essence(log: list[Event]) -> list[tuple[str, dict[str, Any]]]:
    """What happened, without recovery and timing: the steps whose input was not recovery, without ids and times."""
    told: list[tuple[str, dict[str, Any]]] = []
    connected, started = False, set[str]()
    for step in steps(log):
        first, last = step[0], step[-1]
        if isinstance(first, SessionResumed | ClientDisconnected) or isinstance(last, EventRejected):
            continue
        if isinstance(first, ClientConnected):
            if connected:
                continue
            connected = True
        if isinstance(first, PlaybackStarted):
            if first.playback_id in started:
                continue
            started.add(first.playback_id)
        told += [(type(event).__name__, _payload(event)) for event in step if not _is_timer(event)]
    return told


def _is_timer(event: Event) -> bool:
    """Timers are armed anew by whoever takes over, so which of them run differs."""
    return isinstance(event, CommandIssued) and event.name in ("StartTimer", "CancelTimer")


def _payload(event: Event) -> dict[str, Any]:
    fields = {name: value for name, value in event.model_dump().items() if name not in VOLATILE}
    if isinstance(event, AnswerEnded):
        fields = {name: value for name, value in fields.items() if not name.startswith("heard")}
    if isinstance(event, CommandIssued):
        fields["payload"] = {name: value for name, value in fields["payload"].items() if name != "conversation_to"}
    return fields


async def handled(redis: Redis, keys: Keys, log: list[Event]) -> None:
    """Raise AssertionError unless each accepted input of the session is in its log once, or a dead letter after it."""
    dead = {fields[b"id"] for _, fields in await redis.xrange(keys.unroutable(0))}
    logged = Counter((event.producer, event.producer_seq) for event in log if hasattr(event, "producer"))
    accepted = {
        (event.producer, event.producer_seq)
        for entry, fields in await redis.xrange(keys.inbox(0))
        if entry not in dead and (event := decode_input(fields[b"e"])).session_id == log[0].session_id
    }
    assert set(logged) == accepted, f"lost: {accepted - set(logged)}; from nowhere: {set(logged) - accepted}"
    assert set(logged.values()) == {1}, f"twice: {[one for one, count in logged.items() if count > 1]}"
    said = [(PRODUCER, number) for number in range(1, len(SCRIPT) + 1)]
    assert [one for one in logged if one[0] == PRODUCER] == said
