"""Limits the lines of a node, the conversations with a connected caller. Silent or absent callers never block new ones.

A session whose caller stays silent is ended after a timeout, and earlier when other callers need the line. A caller
whose connection was lost holds no line while the session waits, and gets one on reconnecting.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from events.inputs import SessionCloseRequested
from orchestrator.runtime.live_session import Client, LiveSession
from orchestrator.runtime.node import Node

logger = logging.getLogger(__name__)

SILENT_S = 30.0
"""Timeout for a caller's first input: long enough to type a question, or to find the microphone."""
SILENT_IN_A_CROWD_S = 5.0
"""The same timeout while more than half of the lines are held by silent callers."""
MANY = 0.25
"""Part of all lines. An address that holds more of them in silence is the first to lose one."""
FRESH_S = 1.0
"""Least time before a silent caller is ended: programs, and pages that start a call, have sent input by then."""
GREET_S = 0.5
"""Where the agent speaks first, how long a caller must stay connected before the conversation begins."""
RETURNING = 4
"""Multiple of the limit up to which reconnecting callers get a line: callers of a failed node reconnect here."""
AWAY = 5
"""Multiple of the limit up to which sessions wait for absent callers. Beyond it, the longest absent are ended."""
LOOK_S = 0.25
ENDING_S = math.inf
"""Marks an absent session in `_away_since` that is already being ended."""
NOTHING_SAID = "nothing was said"


@dataclass(slots=True, eq=False)
class _Silent:
    live: LiveSession
    client: Client
    address: str
    since_s: float


class LinePool:
    """The lines of one node. Use `async with`: a task ends sessions whose caller is silent or absent for too long."""

    def __init__(self, node: Node, count: int) -> None:
        self._node = node
        self._count = count
        self._many = max(1.0, MANY * count)
        self._silent: dict[LiveSession, _Silent] = {}
        self._away_since: dict[LiveSession, float] = {}
        self._address_of: dict[LiveSession, str] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "LinePool":
        self._looking = asyncio.create_task(self._look_again(), name="lines")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    @property
    def are_taken(self) -> bool:
        return self._held() >= self._count

    def has_room(self, address: str) -> bool:
        """Whether a new caller of this address gets a line. If all are taken, ends one silent caller to free a line; if
        this address has many silent ones, one of them.
        """
        if self._held() < self._count:
            return True
        self._forget_the_begun()
        own = [one for one in self._silent.values() if one.address == address]
        return self._end_one_silent(FRESH_S, own if len(own) > self._many else self._silent.values(), self._many)

    def has_room_for_one_who_returns(self) -> bool:
        return self._held() < RETURNING * self._count

    def joined(self, live: LiveSession, address: str) -> None:
        """Record from where the caller of a session is connected."""
        self._address_of[live] = address

    def silent(self, live: LiveSession, client: Client, address: str) -> None:
        """Record that a caller has a line and has sent no input yet."""
        self._silent[live] = _Silent(live, client, address, time.monotonic())

    def spoke(self, live: LiveSession) -> None:
        self._silent.pop(live, None)

    def left(self, live: LiveSession) -> None:
        """Record that the connection of this session is gone."""
        self._silent.pop(live, None)
        self._away_since[live] = time.monotonic()

    def _held(self) -> int:
        return sum(live.client is not None or live.handler is not None for live in self._node.sessions)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self._end_the_silent()
                self._end_the_absent()
            except Exception:
                logger.exception("silent and absent callers could not be looked at")

    def _end_the_silent(self) -> None:
        self._forget_the_begun()
        now_s = time.monotonic()
        for one in list(self._silent.values()):
            if now_s - one.since_s >= SILENT_S:
                self._end(one)
            elif self._node.greets and now_s - one.since_s >= GREET_S:
                del self._silent[one.live]
                self._node.begin(one.live)
        while len(self._silent) > max(1, self._count / 2) and self._end_one_silent(
            SILENT_IN_A_CROWD_S, self._silent.values()
        ):
            pass

    def _forget_the_begun(self) -> None:
        """Forget the sessions that have begun since: by a call, or by an outside producer. Ending one as silent would
        leave a session without a client, which nothing ends.
        """
        self._silent = {live: one for live, one in self._silent.items() if live.open is not None}

    def _end_one_silent(self, at_least_s: float, silent: Collection[_Silent], many: float = math.inf) -> bool:
        """End the longest silent caller of the address that has most of these; False if none is old enough.

        Before an old one of an address with few, a fresh one of an address with more than `many` is ended: who opens
        conversations without a pause has no old ones.
        """
        before_s = time.monotonic() - at_least_s
        if not any(one.since_s <= before_s for one in silent):
            return False
        of_address = Counter(one.address for one in silent)
        candidates = [one for one in silent if one.since_s <= before_s or of_address[one.address] > many]
        self._end(max(candidates, key=lambda one: (of_address[one.address], -one.since_s)))
        return True

    def _end(self, one: _Silent) -> None:
        del self._silent[one.live]
        self._node.counters["silent_ended"] += 1
        self._node.discard(one.live)
        ending = asyncio.create_task(self._part(one), name=f"{one.live.session_id}:silent")
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def _part(self, one: _Silent) -> None:
        await self._node.withdraw(one.live)
        await one.client.close(NOTHING_SAID)

    def _end_the_absent(self) -> None:
        """End the longest absent sessions beyond the limit, of the addresses that have most of them."""
        now_s = time.monotonic()
        self._away_since = {
            live: self._away_since.get(live, now_s)
            for live in self._node.sessions
            if live.client is None and live.handler is None
        }
        self._address_of = {live: self._address_of.get(live, "") for live in self._node.sessions}
        away = [live for live, since_s in self._away_since.items() if since_s < ENDING_S]
        of_address = Counter(self._address_of[live] for live in away)
        for _ in range(len(away) - AWAY * self._count):
            live = max(away, key=lambda one: (of_address[self._address_of[one]], -self._away_since[one]))
            away.remove(live)
            of_address[self._address_of[live]] -= 1
            self._away_since[live] = ENDING_S
            self._node.counters["away_ended"] += 1
            self._node.report(SessionCloseRequested(session_id=live.session_id, reason="client_gone"))
