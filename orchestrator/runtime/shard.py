"""Runs an owned shard: rebuilds its sessions from logs, decides about inputs, commits steps, carries out commands."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from events.codec import BadEventError, decode_input, encode, encoded
from events.derived import EventRejected
from events.envelope import Event, Input
from events.inputs import (
    ClientConnected,
    HandlerAttached,
    SessionCloseRequested,
    SessionOpened,
    SessionResumed,
    TimerFired,
)
from orchestrator.grant import Grant
from orchestrator.runtime.clock import SteadyClock, after_takeover, now_us
from orchestrator.runtime.effects.effects import Effects
from orchestrator.runtime.effects.timers import Timers
from orchestrator.runtime.fleet.lease import Lease
from orchestrator.runtime.fleet.owned import Means, Owned
from orchestrator.runtime.inbox import is_from_a_node
from orchestrator.runtime.live_session import END_S, LiveSession
from orchestrator.runtime.promises import openings, promised_grant
from orchestrator.runtime.redis.commit import Move, position
from orchestrator.runtime.redis.connection import Entry
from orchestrator.runtime.redis.lost_writes import Committed
from orchestrator.runtime.redis.rebuild import committed_us, rebuild
from orchestrator.safe_text import named_error
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.commands import OF_THE_TURN
from orchestrator.session.reducer import Step, reduce
from orchestrator.session.snapshot import dump
from orchestrator.session.state import State

logger = logging.getLogger(__name__)

MOST_SNAPSHOT_BYTES = 32_768
"""A larger snapshot is not stored, because it uses too much memory. A takeover then starts from an older snapshot."""

SNAPSHOT_EVERY = 64
"""Versions between snapshots. A takeover reads a snapshot, and about this many versions of the log after it."""
FAILURES_BEFORE_THE_END = 3
MOST_OF_POISON = 65_536
"""Limit in bytes for an event that is kept as a dead letter because the reducer raised on it. A larger event is
cut; nearly all events fit.
"""

Observer = Callable[[LiveSession, Event], None]
"""Called for each committed event, in order."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision about an inbox entry: a step of a session, or only a move of the cursor (no `live`, no `step`)."""

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
        self._opened = means.opened
        self.sessions: dict[str, LiveSession] = {}
        self._effects = effects
        self._committed = committed
        self._observer = observer
        self._ending: set[asyncio.Task[None]] = set()
        """Unfinished tasks of ended sessions, such as the closing of connections. `give_up` waits for them."""

    @property
    def calls(self) -> int:
        return len(self.sessions)

    async def take_over(self) -> None:
        """Rebuild the live sessions from their logs, and report SESSION_RESUMED for each session. Raises RedisError."""
        for session_id in self.lease.sessions:
            if self.lost.is_set():
                return
            try:
                found = await rebuild(self._redis, self._keys, session_id)
                state = found.state
                since_us = await committed_us(self._redis, self._keys, session_id)
            except RedisError:
                raise
            except Exception as error:  # one broken session must not stop the takeover
                name, ours = self.lease.what.name, not isinstance(error, BadEventError)
                logger.error("%s: %s cannot be taken over: %s", name, session_id, error, exc_info=ours)  # noqa: TRY400
                self._counters["unrecoverable"] += 1
                continue
            live = self._admit(session_id, state, after_takeover(state.at_us, since_us, self.lease.server_clock))
            live.conversation, live.tools.journal = found.conversation, found.journal
            live.call_follows = bool(state.handler_id)
            self._resume(session_id)

    def _resume(self, session_id: str) -> None:
        """Append SESSION_RESUMED: the session has a new owner, and its earlier connections were to another node."""
        self._inbox.append(SessionResumed(session_id=session_id, reducer_version=REDUCER_VERSION))
        self._counters["take_overs"] += 1

    def newborn(self, session_id: str) -> LiveSession:
        """Make a live session whose SESSION_OPENED is not committed yet, add it to this shard, and return it."""
        return self._admit(session_id, State(), SteadyClock(now_us()))

    def _admit(self, session_id: str, state: State, clock: SteadyClock) -> LiveSession:
        """Make a live session, add it to this shard, and return it."""
        live = self.sessions[session_id] = self._live(session_id, state, clock)
        return live

    def _live(self, session_id: str, state: State, clock: SteadyClock) -> LiveSession:
        self._inbox.clocks[session_id] = clock
        return LiveSession(session_id, state, Timers(session_id, self._inbox.append, clock))

    async def _handle(self, batch: list[Entry]) -> None:
        decided = await self._decide_all(batch)
        await self._committer.commit([one.move for one in decided])
        for one in decided:
            if not self.lost.is_set():  # if lost meanwhile, the next owner performs the committed commands again
                self._perform(one)
        await asyncio.sleep(0)  # started tasks begin now, before the next read is prepared

    async def _decide_all(self, batch: list[Entry]) -> list[Decided]:
        """Decide about the entries of a batch in order. Each decision uses the state after the earlier entries,
        although the steps of those entries are not committed yet.
        """
        states: dict[str, State] = {}
        decided: list[Decided] = []
        for stream_id, fields in batch:
            entry_id = stream_id.decode()
            if position(entry_id) > position(self._cursor):
                decided += await self._decide(entry_id, fields, states)
                self._cursor = entry_id
        return decided

    async def _decide(self, entry_id: str, fields: dict[bytes, bytes], states: dict[str, State]) -> list[Decided]:
        line = fields.get(b"e")
        if line is None:
            return [self._dead_letter(entry_id, "the entry has no field e", repr(sorted(fields)).encode())]
        try:
            event = decode_input(line)
        except BadEventError as error:
            return [self._dead_letter(entry_id, str(error), line)]
        if isinstance(event, SessionResumed) and not self._inbox.has_stamped(event):  # an earlier owner's
            return [self._pass_over(entry_id)]
        live = self.sessions.get(event.session_id)
        is_new = live is None and await self._is_new(event)
        grant = None if event.session_id in states else await self._promised(event, live)
        live = self.sessions.get(event.session_id) or live  # its client may have come back during the awaits
        if live is None and (is_new or grant is not None):
            live = self._live(event.session_id, State(), SteadyClock(now_us()))
        opening: list[Decided] = []
        if live is not None and grant is not None:
            live.grant = grant
            opening = self._open(live, states)
        if live is None:
            if await self._is_late(event):
                return [self._pass_over(entry_id)]
            return [self._dead_letter(entry_id, f"rule 1: {event.session_id!r} is no live session", line)]
        return [*opening, self._decide_of(live, entry_id, event, line, states)]

    def _decide_of(
        self, live: LiveSession, entry_id: str, event: Input, line: bytes, states: dict[str, State]
    ) -> Decided:
        state = states.get(event.session_id, live.state)
        stamped = self._received(live, event)
        try:
            step = reduce(state, stamped)
        except Exception as error:
            logger.exception("the reducer raised on %s of %s", entry_id, live.session_id)
            return self._poison(entry_id, live, state, stamped, error)
        if not step.events:
            self._counters["duplicates"] += 1
            return Decided(self._pass(self._cursor, entry_id, "", b"", ""))
        if not step.state.session_id:  # the session is not open: it has no log for the event
            return self._dead_letter(entry_id, f"{event.session_id!r} is not open: {step.events[-1].reason}", line)  # type: ignore[attr-defined]
        if not state.session_id and live.session_id in self.sessions:
            self._opened_by(event, live)
        self._settle(live)
        states[event.session_id] = step.state
        return Decided(self._commit(entry_id, live, state, step), live, step)

    def _received(self, live: LiveSession, event: Input) -> Input:
        return event.replace(at_us=live.timers.clock.now_us(), incarnation=self.lease.token)

    def _settle(self, live: LiveSession) -> None:
        """Add a newly opened session to this shard. If this node promised the session, the shard has it already: does
        nothing.

        The client of an added session got the session id from another node, and is not connected to this node. So
        SESSION_RESUMED is appended, as after a takeover: the reducer then waits for the client to reconnect, for a
        limited time.
        """
        if live.session_id not in self.sessions:
            self.sessions[live.session_id] = live
            self._resume(live.session_id)

    async def _promised(self, event: Input, live: LiveSession | None) -> Grant | None:
        """Return the grant of the event's session, if it is promised (a client has its id, but it has no log yet).

        None: the event itself opens the session, the session is open already, or it was not promised.
        """
        if isinstance(event, SessionOpened) or (live is not None and live.state.session_id):
            return None
        return await promised_grant(self._redis, self._keys, event.session_id)

    def _open(self, live: LiveSession, states: dict[str, State]) -> list[Decided]:
        """Decide the steps that open a promised session (a client has its id, but it has no log yet). Called when an
        inbox entry for the session arrives. The opening steps do not move the cursor; the entry's own decision does.
        `states`: session id → state after the last decided step of this batch; the new state is added.

        The node that promised the session may append the opening events, too, under the same ids. The reducer drops
        the duplicates.
        """
        live.open = None
        decided, state = [], live.state
        for event in openings(live, self._opened(live.session_id, live.grant)):
            step = reduce(state, self._received(live, self._inbox.stamped(event)))
            decided.append(Decided(self._commit(self._cursor, live, state, step), live, step))
            state = step.state
        states[live.session_id] = state
        self._settle(live)
        return decided

    def _opened_by(self, opened: Input, live: LiveSession) -> None:
        """Report the connections that a promised session has to this node. Called when a SESSION_OPENED from the inbox
        has opened the session.

        If another node reported `opened`, the state names that node as the owner, and the reducer rejects connections
        to this node. So SESSION_RESUMED comes first. A connection that this node reported before SESSION_RESUMED is
        rejected; it is reported again here, under a new id, else it would count as a duplicate.
        """
        is_ours = self._inbox.has_stamped(opened)
        if is_ours and live.open is None:  # `open` has reported the client right after SESSION_OPENED
            return
        live.open = None
        if not is_ours:
            self._resume(live.session_id)
        if live.client is not None:
            self._inbox.append(ClientConnected(session_id=live.session_id, client_id=live.client.client_id))
        if live.handler is not None:
            self._inbox.append(HandlerAttached(session_id=live.session_id, handler_id=live.handler.handler_id))

    async def _is_new(self, event: Input) -> bool:
        """Whether the event is SESSION_OPENED of a session of this shard that was never opened before."""
        if not isinstance(event, SessionOpened) or self._keys.shard_of(event.session_id) != self.lease.what.number:
            return False
        return not await self._redis.exists(self._keys.state(event.session_id))

    async def _is_late(self, event: Input) -> bool:
        """Whether a node reported the event before it knew that the session has ended. An example is the result of a
        service that was called before the user's goodbye. A late event is counted and then dropped. Typed text does not
        count as late: it is kept as a dead letter.
        """
        if not is_from_a_node(event) or isinstance(event, SessionOpened) or getattr(event, "via", "") == "text":
            return False
        known = await self._redis.exists(self._keys.state(event.session_id))
        return bool(known) and not await self._redis.sismember(self.lease.what.sessions, event.session_id)

    def _poison(self, entry_id: str, live: LiveSession, state: State, event: Input, error: Exception) -> Decided:
        """Handle an event on which the reducer raised, because of a bug. Returns the decision to commit: keep the event
        as a dead letter, with all that is needed to reproduce the bug, and move the cursor past its entry.

        Also closes the session if the event was TIMER_FIRED, or at the session's third such failure
        (FAILURES_BEFORE_THE_END): otherwise the session might hang forever.
        """
        self._counters["reducer_failures"] += 1
        live.failures += 1
        if live.failures == FAILURES_BEFORE_THE_END or isinstance(event, TimerFired):
            self._inbox.append(SessionCloseRequested(session_id=live.session_id, reason="internal_error"))
        where = f"after version {state.version} ({state.phase}, {state.hash()}) by reducer {REDUCER_VERSION}"
        return self._dead_letter(
            entry_id, f"the reducer raised {named_error(error, mask=True)}", encode(event), where, MOST_OF_POISON
        )

    def _snapshot(self, live: LiveSession, step: Step) -> bytes:
        """Return a snapshot of the committed state, to be stored with this step; empty: no snapshot is stored.

        A snapshot is due every SNAPSHOT_EVERY versions. It is stored with the next step without commands, so that
        storing it delays no effect. A snapshot larger than MOST_SNAPSHOT_BYTES is not stored: the next try follows
        after SNAPSHOT_EVERY versions.
        """
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
                b"\n".join(encoded(step.events)),
                session_id,
                step.events[-1].state_hash,
                "ended" if step.state.phase == "ENDED" else "",
                self._snapshot(live, step),
            ),
            (keys.state(session_id), step.state.version) if entry_id == self._cursor else None,
        )

    def _pass_over(self, entry_id: str) -> Decided:
        """Return the move of the cursor past an entry that comes too late to have an effect, and count the entry: an
        event of an ended session, or a SESSION_RESUMED of an earlier owner. The entry becomes no dead letter.
        """
        self._counters["late"] += 1
        return Decided(self._pass(self._cursor, entry_id, "", b"", ""))

    def _dead_letter(self, entry_id: str, reason: str, line: bytes, where: str = "", most: int = 4096) -> Decided:
        logger.error("%s: dead letter %s: %s %s", self.lease.what.name, entry_id, reason, where)
        self._counters["dead_letters"] += 1
        return Decided(self._pass(self._cursor, entry_id, reason, line[:most], where))

    def _perform(self, one: Decided) -> None:
        """Adopt the new state of a committed step, pass the step's events to the observer, and start its commands."""
        live, step = one.live, one.step
        if live is None or step is None:
            return
        live.state = step.state
        self._committed.note(
            live.session_id,
            self._committer.server,
            step.state.version,
            step.events[-1].state_hash,
            events=len(step.events),
            is_over=step.state.phase == "ENDED",
        )
        self._counters["inputs"] += 1
        self._counters["rejected"] += isinstance(step.events[-1], EventRejected)
        live.conversation.hear(step.events)
        live.tools.hear(step.events)
        for event in step.events:
            self._guarded(self._observer, live, event)
        for command in step.commands:
            self._guarded(self._effects.perform, live, command)
        if step.state.task is None and not step.state.outstanding(*OF_THE_TURN):
            live.cancel_task()  # a turn, a speculation or an announcement would keep the current task
        if step.state.phase == "ENDED":
            self._inbox.note_end(live.session_id)
            self.sessions.pop(live.session_id, None)
            for task in live.closing:
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    def _guarded(self, do: Callable[[LiveSession, Any], None], live: LiveSession, what: Event) -> None:
        """Call `do` with an event or command of a committed step, and log its failure. The later events and commands of
        the step must still be handled: they are committed, so nothing repeats them.
        """
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
