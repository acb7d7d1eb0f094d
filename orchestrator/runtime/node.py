"""A node: one process of the service. It opens, finds and refuses sessions, and reports when Redis does not answer."""

import asyncio
import logging
import random
from collections.abc import Callable, Collection
from secrets import token_bytes
from typing import cast

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

from events.codec import prepare
from events.envelope import Event, Input
from events.inputs import ClientConnected, SessionOpened
from orchestrator.grant import EVERYTHING, Grant, limited
from orchestrator.runtime import openings, promises
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.effects.effects import Effects, Services
from orchestrator.runtime.fleet import lease as leases
from orchestrator.runtime.fleet.lease import Lease
from orchestrator.runtime.fleet.membership import Membership
from orchestrator.runtime.fleet.owned import Means, Owned
from orchestrator.runtime.fleet.ownership import Ownership
from orchestrator.runtime.inbox import MOST_QUEUED, Inbox
from orchestrator.runtime.ingress import Ingress
from orchestrator.runtime.live_session import Client, LiveSession
from orchestrator.runtime.redis.connection import connect, load_scripts, wire
from orchestrator.runtime.redis.durability import durability
from orchestrator.runtime.redis.keys import INGRESSES, Keys
from orchestrator.runtime.redis.logs import read_log
from orchestrator.runtime.redis.lost_writes import Committed
from orchestrator.runtime.redis.room import NO_ROOM, Room
from orchestrator.runtime.redis.subscribers import broker
from orchestrator.runtime.shard import Shard
from orchestrator.session.policy import Policy
from orchestrator.session.state import opening
from orchestrator.teardown import end_within

logger = logging.getLogger(__name__)

HANDLER_TTL_S = 24 * 3600
FIND_S = 2.0
"""A reconnecting client waits for the new owner of its session at most one lease duration plus this many seconds."""
FIND_AGAIN_S = 0.05
STOPPING = "the service is stopping"
CALLERS_CONNECTIONS = 64
"""Connections to Redis for requests of clients. The shards have connections of their own."""
DELAYED = "the service cannot keep what is said right now; what was said waits, and is answered later"
PING_S = 1.0


class NotReadyError(RuntimeError):
    """The node opens no new sessions now; the message says why."""


class RedisSetupError(RuntimeError):
    """The URL or the setup of Redis cannot be used; the message says what to do."""


class Node:
    """One process of the service. Everything in it runs on one event loop."""

    def __init__(
        self,
        redis_url: str,
        services: Services,
        *,
        observer: Callable[[LiveSession, Event], None],
        keys: Keys | None = None,
        policy: Policy | None = None,
        lease_ms: int = 2_000,
        address: str = "",
    ) -> None:
        self.keys = keys or Keys()
        self.counters = Counters()
        self.counters["dropped_media"] = self.counters["stuck_teardowns"] = 0  # the metrics show 0 from the start
        self._lease_ms = lease_ms
        self._policy = (policy or Policy()).recorded()
        self.greets = bool(policy and policy.greeting.text)
        """Whether the agent speaks first."""
        self._observer = observer
        self._redis = connect(redis_url, 2 * self.keys.shards + 64)
        self._callers_redis = connect(redis_url, CALLERS_CONNECTIONS, waits=True)
        self._commits = wire(self._redis)
        self._inbox = Inbox(self._redis, self.keys, self._warn_of_delay, self._hush)
        self._effects = Effects(services, self._inbox.append)
        self._broker = broker(redis_url, self.keys.shards + INGRESSES + 8)
        self._members = Membership(self._redis, self.keys, lease_ms)
        self._members.address = address
        self._committed = Committed(self._redis, self.keys, self.counters)
        self._ownership = Ownership(
            self._redis,
            self.keys,
            self._broker,
            self._members,
            self._build,
            self._committed,
            lease_ms,
            connect=lambda: connect(redis_url, 4),
        )
        self._room = Room(self._redis)
        self._secret = b""
        self._stopping = False
        self._finding: dict[int, asyncio.Task[str]] = {}
        """Shard → the task that looks for the shard's owner."""

    async def start(self) -> None:
        """Connect to Redis; take free shards. Raises RedisSetupError for a wrong setup, RedisError if it is down."""
        prepare()
        await self._check_kind()
        await self._check_shard_count()
        self._secret = await self._shared_secret()
        await self._say_what_is_kept()
        await load_scripts(self._redis)
        await self._broker.connect()
        await self._ownership.start()
        self._room.start()

    async def drain(self, also_leaving: Collection[str] = ()) -> None:
        """Open no more sessions. Hand all shards over to other nodes, but none to an address in `also_leaving`."""
        self._stopping = True
        await self._ownership.drain(STOPPING, also_leaving)

    async def stop(self) -> None:
        """Release all shards, close all connections. No session is lost: another node or the next start takes over."""
        self._stopping = True
        for finding in self._finding.values():
            finding.cancel()
        await self._room.stop()
        await self._ownership.stop(STOPPING)
        await end_within("FastStream's broker", self._broker.stop(), counters=self.counters)
        await self._inbox.close()
        await self._commits.close()
        closing = asyncio.gather(self._redis.aclose(), self._callers_redis.aclose())
        await end_within("the connections to Redis", closing, counters=self.counters)

    @property
    def address(self) -> str:
        """Where clients reach this node directly; set before start. Empty: no client is sent here."""
        return self._members.address

    @address.setter
    def address(self, address: str) -> None:
        self._members.address = address

    @property
    def addresses(self) -> set[str]:
        """The advertised addresses of all nodes."""
        return {member.address for member in self._members.members if member.address}

    @property
    def shards(self) -> dict[int, Shard]:
        """Shard number → shard, for the shards that this node owns now and whose takeover is done."""
        return {
            holding.owner.lease.what.number: holding.owner
            for holding in self._ownership.running.values()
            if isinstance(holding.owner, Shard) and holding.begun and not holding.owner.lost.is_set()
        }

    @property
    def ready(self) -> bool:
        """Whether the node opens new sessions."""
        return not self._stopping and bool(self.shards) and not self._inbox.is_stalled and not self._room.is_short

    @property
    def is_full(self) -> bool:
        """Whether the queue of events for Redis is full: a client that reconnects is then disconnected again."""
        return self._inbox.is_stalled and self._inbox.queued >= MOST_QUEUED

    @property
    def sessions(self) -> list[LiveSession]:
        return [live for shard in self.shards.values() for live in shard.sessions.values()]

    @property
    def queued(self) -> int:
        """Number of events of this process that wait to be appended to Redis."""
        return self._inbox.queued

    @property
    def redis_silence_s(self) -> float:
        """Seconds since this node's last sign of life in Redis or, if longer, the wait of its oldest queued input."""
        return max(self._members.silence_s, self._inbox.stalled_s)

    async def read_log(self, session_id: str, *, first: int = 0, most: int | None = None) -> list[Event]:
        """Read the committed events of a session: at most `most` steps, from the step with version `first` on (0: the
        first step). Raises UnknownSessionError if there is no such step, BadEventError for a bad event, RedisError.
        """
        return await read_log(self._callers_redis, self.keys, session_id, first=first, most=most)

    def session(self, session_id: str) -> LiveSession | None:
        """Return the live session with this id; None: the session is not in this process."""
        shard = self.shards.get(self.keys.shard_of(session_id))
        return shard.sessions.get(session_id) if shard else None

    async def reserve(self, grant: Grant) -> openings.Reserved:
        """Reserve a session id for a caller with this grant. Until the session's first input, Redis holds only keys
        that expire. Raises NotReadyError if the node opens no sessions, SpentError if the grant allows no more.
        """
        new_id = self._free_id()
        try:
            return await openings.reserve(self._callers_redis, self.keys, grant, new_id, self.session)
        except (RedisError, OSError) as error:
            raise NotReadyError(f"this node takes no calls now: {DELAYED}") from error

    def welcome(self, session_id: str, grant: Grant) -> LiveSession | None:
        """Return (or make) the live session of a promised id. None: this node does not own the session's shard."""
        return self.session(session_id) or self._adopted(session_id, grant)

    def open_session(self, client: Client) -> LiveSession:
        """Open a session at once, on a shard of this node. Raises NotReadyError if the node opens no sessions."""
        live = cast("LiveSession", self.welcome(self._free_id(), EVERYTHING))
        live.client = client
        self.begin(live)
        return live

    def begin(self, live: LiveSession) -> None:
        """Open a promised session by reporting SESSION_OPENED; does nothing if the session is open already."""
        if live.open is not None:
            live.open()

    def discard(self, live: LiveSession) -> None:
        """Remove a session's client. A session that was never opened leaves this node, and its promise expires."""
        shard = self.shards.get(self.keys.shard_of(live.session_id))
        live.client = None
        if shard is not None and live.open is not None:
            shard.sessions.pop(live.session_id, None)

    async def withdraw(self, live: LiveSession) -> None:
        """Remove a session that was never opened, and its promise in Redis, so that no client can come back to it."""
        self.discard(live)
        try:
            await promises.withdraw(self._callers_redis, self.keys, live.session_id)
        except (RedisError, OSError) as error:
            logger.warning("the promise of %s could not be withdrawn (%s); it expires", live.session_id, error)

    def _free_id(self) -> str:
        """Return a new session id on a shard of this node. Raises NotReadyError if the node opens no sessions."""
        shards = self.shards
        if self._stopping:
            raise NotReadyError("this node is being stopped, so it takes no more calls; try again, at another")
        if self._inbox.is_stalled:
            raise NotReadyError(f"this node takes no calls now: {DELAYED}")
        if self._room.is_short:
            raise NotReadyError(NO_ROOM)
        if not self.ready:
            raise NotReadyError("this node owns no shard, so it can take no call; try another, or later")
        while True:
            session_id = f"auto_session_{random.randrange(10**9, 10**10)}"
            shard = shards.get(self.keys.shard_of(session_id))
            if shard is not None and session_id not in shard.sessions:
                return session_id

    def _promised(self, shard: Shard, session_id: str, grant: Grant) -> LiveSession:
        live = shard.newborn(session_id)
        live.grant = grant

        def open_it() -> None:
            live.open = None
            for event in promises.openings(live, self._opened(session_id, live.grant)):
                self.report(event)

        live.open = open_it
        return live

    def _opened(self, session_id: str, grant: Grant) -> Input:
        policy = limited(self._policy, grant.seconds)
        return SessionOpened(session_id=session_id, grant=grant.recorded(), **opening(policy))

    def connect_client(self, live: LiveSession, client: Client) -> None:
        """Make `client` the client of a session. If the session is open already, report CLIENT_CONNECTED."""
        live.client = client
        if live.open is None:
            self.report(ClientConnected(session_id=live.session_id, client_id=client.client_id))

    @property
    def secret(self) -> bytes:
        """Secret that signs resume tokens, the same on all nodes at all times. Raises NotReadyError before start."""
        if not self._secret:
            raise NotReadyError("the service is starting; try again")
        return self._secret

    async def use_resume_token(self, session_id: str, number: int) -> bool:
        """Record that a client uses the session's resume token of this number: lower numbers are refused from now on;
        the same number stays valid. Returns False if a higher number was used before. Raises RedisError, TimeoutError.
        """
        return await openings.use(self._callers_redis, self.keys, session_id, number)

    def owns(self, session_id: str) -> bool:
        """Whether this node owns the session's shard now; if not, another process may have the session."""
        return self.keys.shard_of(session_id) in self.shards

    async def find(self, session_id: str) -> str:
        """Return the address of the other node that owns a session; empty: this node owns it, or no address is known.

        Waits while the session's shard moves, maybe to this node: a client may reconnect before the takeover. All
        clients of a shard share one search, since the surviving nodes are busy after a node has died.
        """
        number = self.keys.shard_of(session_id)
        if number not in self._finding:
            finding = self._finding[number] = asyncio.create_task(self._find(number), name=f"find shard {number:02d}")
            finding.add_done_callback(lambda _: self._finding.pop(number))
        return await asyncio.shield(self._finding[number])

    async def _find(self, number: int) -> str:
        name = leases.shard(self.keys, number).name
        try:
            async with asyncio.timeout(FIND_S + self._lease_ms / 1_000):  # a dead owner's lease must expire first
                while number not in self.shards:
                    address = await self._ownership.address(name)
                    if address == "" or address not in (None, self.address):  # else wait: no owner yet, or this node
                        return address or ""
                    await self._ownership.something_taken(FIND_AGAIN_S)
        except (TimeoutError, RedisError, OSError) as error:
            logger.warning("nobody knows where %s is: %s", name, error or "it has no owner")
        return ""

    def _warn_of_delay(self, is_delayed: bool) -> None:
        if is_delayed:
            logger.error("Redis does not take what is said; it waits here until it does")
            for live in self.sessions:
                if live.client is not None:
                    live.client.warn("delayed", DELAYED)

    def _hush(self) -> None:
        """Disconnect all clients: Redis has not answered for too long, and more input would fill the memory."""
        logger.error("%d events wait for Redis: callers are sent away until it answers", self._inbox.queued)
        self.counters["overflows"] += 1
        for live in self.sessions:
            live.hush(DELAYED)

    async def promised(self, session_id: str) -> LiveSession | None:
        """Return the live session for a client that comes back with its session id. A promised session that is not open
        yet is made here. The session may be opening just now: if Redis has neither promise nor log, looks again for up
        to 2 s. None: the session is unknown or has ended, or this node does not own its shard.
        """
        try:
            grant = await promises.search(self._callers_redis, self.keys, session_id, lambda: self.owns(session_id))
        except (TimeoutError, RedisError, OSError) as error:
            logger.warning("%s was promised, but has not begun: %s", session_id, error or "nothing of it is here")
            grant = None
        return self.session(session_id) or (self._adopted(session_id, grant) if grant else None)

    def _adopted(self, session_id: str, grant: Grant) -> LiveSession | None:
        shard = self.shards.get(self.keys.shard_of(session_id))
        return self._promised(shard, session_id, grant) if shard else None

    def report(self, event: Input) -> None:
        """Append an event to the inbox of its session's shard. Never waits; keeps the order per session."""
        self._inbox.append(event)

    async def register_handler(self, handler_id: str, session_id: str) -> None:
        """Store a handler's session in Redis, for the ingresses. Called before the client gets its WebRTC answer."""
        await self._callers_redis.set(self.keys.handler(handler_id), session_id, ex=HANDLER_TTL_S)

    async def forget_handler(self, handler_id: str) -> None:
        try:
            await self._callers_redis.delete(self.keys.handler(handler_id))
        except (RedisError, OSError) as error:
            logger.warning("handler %s could not be forgotten (%s); it expires", handler_id, error)

    async def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            async with asyncio.timeout(PING_S):
                return bool(await self._callers_redis.ping())
        except (TimeoutError, RedisError):
            return False

    async def _check_kind(self) -> None:
        if not isinstance(self._redis, RedisCluster) and (await self._redis.info("cluster"))["cluster_enabled"]:
            raise RedisSetupError("this is a Redis Cluster: name it by redis+cluster://host:port, any node of it")

    async def _say_what_is_kept(self) -> None:
        for server in await durability(self._redis):
            logger.info("%s", server.line())
            for words in server.warnings():
                logger.warning("%s", words)

    async def _check_shard_count(self) -> None:
        await self._redis.set(self.keys.shard_count, self.keys.shards, nx=True)
        stored = int(await self._redis.get(self.keys.shard_count) or 0)
        if stored != self.keys.shards:
            raise RedisSetupError(
                f"this Redis was set up with {stored} shards, not {self.keys.shards}; the number cannot be changed, "
                f"since live sessions would move: use {stored}, or another key prefix"
            )

    async def _shared_secret(self) -> bytes:
        await self._redis.set(self.keys.secret, token_bytes(32), nx=True)
        return cast("bytes", await self._redis.get(self.keys.secret))

    def _build(self, lease: Lease, server: str) -> Owned:
        means = Means(
            *(self._redis, self._commits, self.keys, self._inbox, self.counters, self._opened, self._ownership.wake)
        )
        if lease.what.kind == "ingress":
            return Ingress(means, lease, server)
        return Shard(means, lease, server, self._effects, self._committed, self._observer)
