"""A node: the sessions that live in this process; it opens, finds and refuses calls, and says if Redis is silent."""

import asyncio
import hmac
import logging
import random
from base64 import urlsafe_b64encode
from collections.abc import Callable
from secrets import token_bytes

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

from events.codec import prepare
from events.envelope import Event, Input
from events.inputs import ClientConnected, SessionOpened
from orchestrator.runtime import lease as leases
from orchestrator.runtime.connection import connect, load_scripts, wire
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.durability import durability
from orchestrator.runtime.effects import Effects, Services
from orchestrator.runtime.inbox import MOST_QUEUED, Inbox
from orchestrator.runtime.ingress import Ingress
from orchestrator.runtime.keys import INGRESSES, Keys
from orchestrator.runtime.lease import Lease
from orchestrator.runtime.live_session import Client, LiveSession
from orchestrator.runtime.logs import read_log
from orchestrator.runtime.membership import Membership
from orchestrator.runtime.owned import Means, Owned
from orchestrator.runtime.ownership import Ownership
from orchestrator.runtime.second_life import Committed
from orchestrator.runtime.shard import Shard
from orchestrator.runtime.subscribers import broker
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.policy import Policy

logger = logging.getLogger(__name__)

HANDLER_TTL_S = 24 * 3600
FIND_S = 2.0
"""How long a client that has come back is held while its conversation is on its way."""
FIND_AGAIN_S = 0.05
STOPPING = "the service is stopping"
DELAYED = "the service cannot keep what is said right now; what was said waits, and is answered later"
PING_S = 1.0


class NotReadyError(RuntimeError):
    """The node owns no shard (yet, or any more), so it can take no call."""


class UnusableRedisError(RuntimeError):
    """Redis is named or set up in a way that cannot be used; the message says what to do."""


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
        self._lease_ms = lease_ms
        self._policy = (policy or Policy()).recorded()
        self._observer = observer
        self._redis = connect(redis_url, 2 * self.keys.shards + 64)
        self._commits = wire(self._redis)
        self._inbox = Inbox(self._redis, self.keys, self._warn_of_delay, self._hush)
        self._effects = Effects(services, self._inbox.append)
        self._broker = broker(redis_url, self.keys.shards + INGRESSES + 8)
        self._members = Membership(self._redis, self.keys, lease_ms)
        self._members.address = address
        self._committed = Committed(self._redis, self.keys, self.counters)
        self._ownership = Ownership(
            self._redis, self.keys, self._broker, self._members, self._build, self._committed, lease_ms
        )
        self._secret = token_bytes(32)
        """Until the shared one is known, nobody can show a token."""
        self._stopping = False
        self._finding: dict[int, asyncio.Task[str]] = {}
        """By shard, who looks for its owner."""

    async def start(self) -> None:
        """Connect and take what is free. Raises UnusableRedisError, and RedisError when Redis is away."""
        prepare()
        await self._check_kind()
        await self._check_shard_count()
        self._secret = await self._shared_secret()
        await self._say_what_is_kept()
        await load_scripts(self._redis)
        await self._broker.connect()
        await self._ownership.start()

    async def drain(self) -> None:
        """Take no more calls, and hand those there are to the other nodes; where there are none, to the next start."""
        self._stopping = True
        await self._ownership.drain(STOPPING)

    async def stop(self) -> None:
        """Give everything back: nothing is lost, another node or the next start goes on from here."""
        self._stopping = True
        for finding in self._finding.values():
            finding.cancel()
        await self._ownership.stop(STOPPING)
        await self._broker.stop()
        await self._inbox.close()
        await self._commits.close()
        await self._redis.aclose()

    @property
    def address(self) -> str:
        """Where clients reach this very node; set before start. Empty: nobody is sent here."""
        return self._members.address

    @address.setter
    def address(self, address: str) -> None:
        self._members.address = address

    @property
    def addresses(self) -> set[str]:
        """Of all nodes."""
        return {member.address for member in self._members.members if member.address}

    @property
    def shards(self) -> dict[int, Shard]:
        """The shards owned now, their sessions among us."""
        return {
            holding.owner.lease.what.number: holding.owner
            for holding in self._ownership.running.values()
            if isinstance(holding.owner, Shard) and holding.begun and not holding.owner.lost.is_set()
        }

    @property
    def ready(self) -> bool:
        """Whether it takes new calls."""
        return not self._stopping and bool(self.shards) and not self._inbox.is_stalled

    @property
    def is_full(self) -> bool:
        """Whether so much waits for Redis that nobody who was sent away may come back yet."""
        return self._inbox.is_stalled and self._inbox.queued >= MOST_QUEUED

    @property
    def sessions(self) -> list[LiveSession]:
        return [live for shard in self.shards.values() for live in shard.sessions.values()]

    @property
    def queued(self) -> int:
        """Events of this process that wait for Redis."""
        return self._inbox.queued

    @property
    def redis_silence_s(self) -> float:
        """For how long Redis has not answered this node, be it to its signs of life or to what callers said."""
        return max(self._members.silence_s, self._inbox.stalled_s)

    async def read_log(self, session_id: str, *, first: int = 0, most: int | None = None) -> list[Event]:
        """The committed events of a session: all, or those of so many steps from a version on. Raises
        UnknownSessionError (also where there are none so late), BadEventError, RedisError.
        """
        return await read_log(self._redis, self.keys, session_id, first=first, most=most)

    def session(self, session_id: str) -> LiveSession | None:
        """A session that lives in this process."""
        shard = self.shards.get(self.keys.shard_of(session_id))
        return shard.sessions.get(session_id) if shard else None

    def open_session(self, client: Client) -> LiveSession:
        """Begin a conversation, on a shard that this node owns. Raises NotReadyError."""
        shards = self.shards
        if self._stopping:
            raise NotReadyError("this node is being stopped, so it takes no more calls; try again, at another")
        if self._inbox.is_stalled:
            raise NotReadyError(f"this node takes no calls now: {DELAYED}")
        if not self.ready:
            raise NotReadyError("this node owns no shard, so it can take no call; try another, or later")
        while True:
            session_id = f"auto_session_{random.randrange(10**9, 10**10)}"
            shard = shards.get(self.keys.shard_of(session_id))
            if shard is not None and session_id not in shard.sessions:
                break
        live = shard.newborn(session_id)
        self.report(SessionOpened(session_id=session_id, policy=self._policy, reducer_version=REDUCER_VERSION))
        self.connect_client(live, client)
        return live

    def connect_client(self, live: LiveSession, client: Client) -> None:
        """The client of a session, instead of the one it may have had."""
        live.client = client
        self.report(ClientConnected(session_id=live.session_id, client_id=client.client_id))

    def resume_token(self, session_id: str) -> str:
        """The secret with which a client comes back to a session; the same on every node and after every restart."""
        digest = hmac.digest(self._secret, session_id.encode(), "sha256")
        return urlsafe_b64encode(digest[:24]).decode()

    def may_resume(self, session_id: str, resume_token: str) -> bool:
        """Whether a client that names this session shows its secret."""
        return hmac.compare_digest(self.resume_token(session_id).encode(), resume_token.encode())

    def owns(self, session_id: str) -> bool:
        """Whether the session's shard is owned here now; else the session may live in another process."""
        return self.keys.shard_of(session_id) in self.shards

    async def find(self, session_id: str) -> str:
        """The address of the node that has the session, if another one has it and says where it is; else empty.

        A session that is on its way, maybe to this node, is waited for: its client is faster than a look at Redis. All
        clients of a shard wait for the same answer: when a node has died, its survivors have better things to do.
        """
        number = self.keys.shard_of(session_id)
        if number not in self._finding:
            finding = self._finding[number] = asyncio.create_task(self._find(number), name=f"find shard {number:02d}")
            finding.add_done_callback(lambda _: self._finding.pop(number))
        return await asyncio.shield(self._finding[number])

    async def _find(self, number: int) -> str:
        name = leases.shard(self.keys, number).name
        try:
            async with asyncio.timeout(FIND_S + self._lease_ms / 1_000):  # so long the lease of a dead owner holds
                while number not in self.shards:
                    address = await self._ownership.address(name)
                    if address == "" or address not in (None, self.address):  # ours: it is taken, and begins at once
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
        """Redis has been away for too long: whoever speaks on would fill the memory."""
        logger.error("%d events wait for Redis: callers are sent away until it answers", self._inbox.queued)
        self.counters["overflows"] += 1
        for live in self.sessions:
            live.hush(DELAYED)

    async def promised(self, session_id: str) -> LiveSession | None:
        """A session whose SESSION_OPENED is still waiting to be committed, as soon as it is; None: it never will.

        Its shard may have changed its owner between the promise and the commit: the new one has it in its inbox.
        """
        begun = self.keys.state(session_id)
        try:
            async with asyncio.timeout(FIND_S):
                while self.owns(session_id) and not await self._redis.exists(begun):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(FIND_AGAIN_S)
        except (TimeoutError, RedisError, OSError) as error:
            logger.warning("%s was promised, but has not begun: %s", session_id, error or "nothing of it is here")
        return self.session(session_id)

    def report(self, event: Input) -> None:
        """Say that something happened. Never waits; order is kept per session."""
        self._inbox.append(event)

    async def register_handler(self, handler_id: str, session_id: str) -> None:
        """Let routing rule 2 find the session of a handler; written before the SDP answer leaves."""
        await self._redis.set(self.keys.handler(handler_id), session_id, ex=HANDLER_TTL_S)

    async def forget_handler(self, handler_id: str) -> None:
        try:
            await self._redis.delete(self.keys.handler(handler_id))
        except (RedisError, OSError) as error:
            logger.warning("handler %s could not be forgotten (%s); it expires", handler_id, error)

    async def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            async with asyncio.timeout(PING_S):
                return bool(await self._redis.ping())
        except (TimeoutError, RedisError):
            return False

    async def _check_kind(self) -> None:
        if not isinstance(self._redis, RedisCluster) and (await self._redis.info("cluster"))["cluster_enabled"]:
            raise UnusableRedisError("this is a Redis Cluster: name it by redis+cluster://host:port, any node of it")

    async def _say_what_is_kept(self) -> None:
        for server in await durability(self._redis):
            logger.info("%s", server.line())
            for words in server.warnings():
                logger.warning("%s", words)

    async def _check_shard_count(self) -> None:
        await self._redis.set(self.keys.shard_count, self.keys.shards, nx=True)
        stored = int(await self._redis.get(self.keys.shard_count) or 0)
        if stored != self.keys.shards:
            raise UnusableRedisError(
                f"this Redis was set up with {stored} shards, not {self.keys.shards}; the number cannot be changed, "
                f"since live sessions would move: use {stored}, or another key prefix"
            )

    async def _shared_secret(self) -> bytes:
        await self._redis.set(self.keys.secret, token_bytes(32), nx=True)
        stored = await self._redis.get(self.keys.secret)
        assert isinstance(stored, bytes), "it was written just before"
        return stored

    def _build(self, lease: Lease, server: str) -> Owned:
        means = Means(self._redis, self._commits, self.keys, self._inbox, self.counters, self._ownership.wake)
        if lease.what.kind == "ingress":
            return Ingress(means, lease, server)
        return Shard(means, lease, server, self._effects, self._committed, self._observer)
