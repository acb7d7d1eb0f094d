"""A shard that this node owns: rebuilds its sessions from their logs, then reads its inbox: decide, commit, perform."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from events.codec import BadEventError, decode_input, encode
from events.derived import EventRejected
from events.envelope import Event, Input
from events.inputs import SessionCloseRequested, SessionOpened, SessionResumed, TimerFired
from orchestrator.runtime.clock import now_us
from orchestrator.runtime.commit import Move, position
from orchestrator.runtime.connection import Entry
from orchestrator.runtime.effects import Effects
from orchestrator.runtime.lease import Lease
from orchestrator.runtime.live_session import END_S, LiveSession
from orchestrator.runtime.owned import Means, Owned
from orchestrator.runtime.rebuild import rebuild
from orchestrator.runtime.second_life import Committed
from orchestrator.runtime.timers import Timers
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.commands import STAGES
from orchestrator.session.reducer import Step, reduce
from orchestrator.session.snapshot import dump
from orchestrator.session.state import State

logger = logging.getLogger(__name__)

MOST_SNAPSHOT_BYTES = 32_768
"""A larger one is not worth its place in Redis; the log is read from the one before."""

SNAPSHOT_EVERY = 64
"""Versions: so much of a log is read at a take-over, and not the whole of an hour's call."""
FAILURES_BEFORE_THE_END = 3
MOST_OF_POISON = 65_536
"""Bytes kept of an event on which the reducer raised: all of it, as good as always."""

Observer = Callable[[LiveSession, Event], None]
"""Called for each committed event, in order."""


@dataclass(frozen=True, slots=True)
class Decided:
    """An inbox entry and what becomes of it: a step of a session, or nothing but a moved cursor."""

    move: Move
    live: LiveSession | None = None
    step: Step | None = None


class Shard(Owned):
    """Runs the sessions of one shard, under one lease."""

    def __init__(
        self,
        means: Means,
        lease: Lease,
        server: str,
        effects: Effects,
        committed: Committed,
        observer: Observer,
    ) -> None:
        super().__init__(means, lease, server)
        self.sessions: dict[str, LiveSession] = {}
        self._effects = effects
        self._committed = committed
        self._observer = observer
        self._ending: set[asyncio.Task[None]] = set()
        """What still runs of sessions that have ended."""

    @property
    def calls(self) -> int:
        return len(self.sessions)

    async def take_over(self) -> None:
        """Rebuild the live sessions from their logs, and tell each that it has a new owner."""
        for session_id in self.lease.sessions:
            if self.lost.is_set():
                return
            try:
                state, conversation = await rebuild(self._redis, self._keys, session_id)
            except RedisError:
                raise
            except Exception as error:  # one session must not keep the others out
                name, ours = self.lease.what.name, not isinstance(error, BadEventError)
                logger.error("%s: %s cannot be taken over: %s", name, session_id, error, exc_info=ours)  # noqa: TRY400
                self._counters["unrecoverable"] += 1
                continue
            live = self._admit(session_id, state)
            live.conversation = conversation
            live.call_follows = bool(state.handler_id)
            self._resume(session_id)

    def _resume(self, session_id: str) -> None:
        """Say that the session has a new owner: whoever was connected to it was connected to another node."""
        self._inbox.append(SessionResumed(session_id=session_id, reducer_version=REDUCER_VERSION))
        self._counters["take_overs"] += 1

    def newborn(self, session_id: str) -> LiveSession:
        """A session whose SESSION_OPENED is on its way."""
        return self._admit(session_id, State())

    def _admit(self, session_id: str, state: State) -> LiveSession:
        """A session lives here from now on."""
        live = self.sessions[session_id] = self._live(session_id, state)
        return live

    def _live(self, session_id: str, state: State) -> LiveSession:
        return LiveSession(session_id, state, Timers(session_id, self._inbox.append))

    async def _handle(self, batch: list[Entry]) -> None:
        decided = await self._decide_all(batch)
        await self._committer.commit([one.move for one in decided])
        for one in decided:
            if not self.lost.is_set():  # given up meanwhile: the next owner asks again for what was committed
                self._perform(one)
        await asyncio.sleep(0)  # what was started begins now, before the next read is prepared

    async def _decide_all(self, batch: list[Entry]) -> list[Decided]:
        """Decide each entry on the state that the ones before it leave, commits still pending."""
        states: dict[str, State] = {}
        decided = []
        for stream_id, fields in batch:
            entry_id = stream_id.decode()
            if position(entry_id) > position(self._cursor):
                decided.append(await self._decide(entry_id, fields, states))
                self._cursor = entry_id
        return decided

    async def _decide(self, entry_id: str, fields: dict[bytes, bytes], states: dict[str, State]) -> Decided:
        line = fields.get(b"e")
        if line is None:
            return self._dead_letter(entry_id, "the entry has no field e", repr(sorted(fields)).encode())
        try:
            event = decode_input(line)
        except BadEventError as error:
            return self._dead_letter(entry_id, str(error), line)
        live = self.sessions.get(event.session_id) or await self._newcomer(event)
        if live is None:
            return self._dead_letter(entry_id, f"rule 1: {event.session_id!r} is no live session", line)
        state = states.get(event.session_id, live.state)
        stamped = event.model_copy(update={"at_us": max(now_us(), state.at_us), "incarnation": self.lease.token})
        try:
            step = reduce(state, stamped)
        except Exception as error:
            logger.exception("the reducer raised on %s of %s", entry_id, live.session_id)
            return self._poison(entry_id, live, state, stamped, error)
        if not step.events:
            self._counters["duplicates"] += 1
            return Decided(self._pass(self._cursor, entry_id, "", b"", ""))
        if not step.state.session_id:  # there is no session yet, so there is no log to keep it in
            return self._dead_letter(entry_id, f"{event.session_id!r} is not open: {step.events[-1].reason}", line)  # type: ignore[attr-defined]
        if event.session_id not in self.sessions:  # who opened it, and whoever was connected to that, is gone
            self.sessions[event.session_id] = live
            self._resume(event.session_id)
        states[event.session_id] = step.state
        return Decided(self._commit(entry_id, live, state, step), live, step)

    async def _newcomer(self, event: Input) -> LiveSession | None:
        """The first event of a session opens it here, unless the session exists already (then it has ended)."""
        if not isinstance(event, SessionOpened) or self._keys.shard_of(event.session_id) != self.lease.what.number:
            return None
        if await self._redis.exists(self._keys.state(event.session_id)):
            return None
        return self._live(event.session_id, State())

    def _poison(self, entry_id: str, live: LiveSession, state: State, event: Input, error: Exception) -> Decided:
        """Our bug: set the event aside with all that is needed to run into it again, and go on.

        Where a timer was set aside, or one thing after the other is, nothing may ever move the session again: it ends.
        """
        self._counters["reducer_failures"] += 1
        live.failures += 1
        if live.failures == FAILURES_BEFORE_THE_END or isinstance(event, TimerFired):
            self._inbox.append(SessionCloseRequested(session_id=live.session_id, reason="internal_error"))
        where = f"after version {state.version} ({state.phase}, {state.hash()}) by reducer {REDUCER_VERSION}"
        return self._dead_letter(
            entry_id, f"the reducer raised {type(error).__name__}: {error}", encode(event), where, MOST_OF_POISON
        )

    def _snapshot(self, live: LiveSession, step: Step) -> bytes:
        """A snapshot of what is committed goes along with a commit that nothing waits for, every so many versions."""
        if step.commands or live.state.version < live.snapshot_version + SNAPSHOT_EVERY:
            return b""
        live.snapshot_version = live.state.version
        snapshot = dump(live.state, live.conversation)
        return snapshot if len(snapshot) <= MOST_SNAPSHOT_BYTES else b""

    def _commit(self, entry_id: str, live: LiveSession, before: State, step: Step) -> Move:
        keys, shard, session_id = self._keys, self.lease.what, step.state.session_id
        feed = keys.feed(shard.number)
        return Move(
            "commit",
            [
                *(shard.owned, keys.log(session_id), keys.state(session_id), shard.sessions, feed, shard.stream),
                keys.positions(shard.number),
            ],
            self._cursor,
            entry_id,
            (
                before.version,
                step.state.version,
                b"\n".join(map(encode, step.events)),
                session_id,
                step.events[-1].state_hash,
                "ended" if step.state.phase == "ENDED" else "",
                self._snapshot(live, step),
            ),
        )

    def _dead_letter(self, entry_id: str, reason: str, line: bytes, where: str = "", most: int = 4096) -> Decided:
        logger.error("%s: dead letter %s: %s %s", self.lease.what.name, entry_id, reason, where)
        self._counters["dead_letters"] += 1
        return Decided(self._pass(self._cursor, entry_id, reason, line[:most], where))

    def _perform(self, one: Decided) -> None:
        """After the commit: the new state is true, and its commands are carried out."""
        live, step = one.live, one.step
        if live is None or step is None:
            return
        live.state = step.state
        self._committed.note(live.session_id, self._committer.server, step.state.version, step.events[-1].state_hash)
        self._counters["inputs"] += 1
        self._counters["rejected"] += isinstance(step.events[-1], EventRejected)
        live.conversation.hear(step.events)
        for event in step.events:
            self._guarded(self._observer, live, event)
        for command in step.commands:
            self._guarded(self._effects.perform, live, command)
        if step.state.task is None and not step.state.outstanding(*STAGES):
            live.cancel_task()  # the current task lives as long as the turn, a guess or an announcement
        if step.state.phase == "ENDED":
            self.sessions.pop(live.session_id, None)
            for task in live.closing:
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    def _guarded(self, do: Callable[[LiveSession, Any], None], live: LiveSession, what: Event) -> None:
        """One that breaks must not take those after it along: they are committed, and nobody does them again."""
        try:
            do(live, what)
        except Exception:
            logger.exception("%s: %s of version %d broke", live.session_id, type(what).__name__, what.version)

    async def give_up(self) -> None:
        await super().give_up()
        await asyncio.gather(*(live.wind_up() for live in self.sessions.values()))
        if self._ending:
            await asyncio.wait(self._ending, timeout=END_S)

    async def send_away(self, reason: str, address: str) -> None:
        await asyncio.gather(*(live.send_away(reason, address) for live in self.sessions.values()))
        self.sessions.clear()
