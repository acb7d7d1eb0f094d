"""A node: takes leases on shards and ingresses, runs what it owns, and gives it back in order."""

import asyncio
import contextlib
import hmac
import logging
import random
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_bytes

from redis.exceptions import RedisError

from events.codec import prepare
from events.envelope import Event, Input
from events.inputs import ClientConnected, SessionOpened
from orchestrator.runtime import lease as leases
from orchestrator.runtime.connection import connect, load_scripts, run_id
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.effects import Effects, Services
from orchestrator.runtime.inbox import Inbox
from orchestrator.runtime.ingress import INGRESSES, Ingress
from orchestrator.runtime.keys import Keys
from orchestrator.runtime.lease import Lease, Ownable
from orchestrator.runtime.live import Client, LiveSession
from orchestrator.runtime.shard import Shard
from orchestrator.runtime.subscribers import Subscription, broker
from orchestrator.runtime.wire import Wire
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.policy import Policy

logger = logging.getLogger(__name__)

HANDLER_TTL_S = 24 * 3600
STOP_S = 5.0
"""How long a node that stops waits for a Redis that does not answer."""
MOVES = "the conversation moves to another process"


class NotReadyError(RuntimeError):
    """The node owns no shard (yet, or any more), so it can take no call."""


class WrongShardCountError(RuntimeError):
    """Redis holds sessions under another number of shards; changing it would move live sessions."""


@dataclass(slots=True)
class _Running:
    """Something owned and the subscription that feeds it."""

    owner: Shard | Ingress
    subscription: Subscription
    server: str
    """The run id of the server at the acquisition."""


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
        lease_ms: int = 3_000,
        address: str = "",
    ) -> None:
        self.keys = keys or Keys()
        self.counters = Counters()
        self._policy = (policy or Policy()).recorded()
        self._lease_ms = lease_ms
        self._address = address
        self._observer = observer
        self._redis = connect(redis_url, 2 * self.keys.shards + 64)
        self._commits = Wire(self._redis)
        self._inbox = Inbox(self._redis, self.keys)
        self._effects = Effects(services, self._inbox.append)
        self._broker = broker(redis_url, self.keys.shards + INGRESSES + 8)
        self._running: dict[str, _Running] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        """What is being given up; until that is done, it is not taken again."""
        self._secret = b""
        self._keeper: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._stopping = False

    async def start(self) -> None:
        """Connect and take what is free. Raises WrongShardCountError, and RedisError when Redis is away."""
        prepare()
        await self._check_shard_count()
        self._secret = await self._shared_secret()
        await load_scripts(self._redis)
        await self._broker.connect()
        await self._acquire_free()
        self._keeper = asyncio.create_task(self._keep(), name="leases")

    async def stop(self) -> None:
        """Give everything back: nothing is lost, another node or the next start goes on from here."""
        self._stopping = True
        self._wake.set()
        if self._keeper is not None:  # it ends between two looks, so that nothing is left half taken or half given up
            await asyncio.wait([self._keeper], timeout=STOP_S)
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._leave(list(self._running), "the service is stopping")
        await asyncio.gather(*self._leaving.values())
        await self._broker.stop()
        await self._inbox.close()
        await self._commits.close()
        await self._redis.aclose()

    @property
    def shards(self) -> dict[int, Shard]:
        """The shards owned now."""
        return {
            running.owner.lease.what.number: running.owner
            for running in self._running.values()
            if isinstance(running.owner, Shard) and not running.owner.lost.is_set()
        }

    @property
    def ready(self) -> bool:
        return not self._stopping and bool(self.shards)

    @property
    def sessions(self) -> list[LiveSession]:
        return [live for shard in self.shards.values() for live in shard.sessions.values()]

    def session(self, session_id: str) -> LiveSession | None:
        """A session that lives in this process."""
        shard = self.shards.get(self.keys.shard_of(session_id))
        return shard.sessions.get(session_id) if shard else None

    def open_session(self, client: Client) -> LiveSession:
        """Begin a conversation, on a shard that this node owns. Raises NotReadyError."""
        shards = self.shards
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
            return bool(await self._redis.ping())
        except RedisError:
            return False

    async def _check_shard_count(self) -> None:
        await self._redis.set(self.keys.shard_count, self.keys.shards, nx=True)
        stored = int(await self._redis.get(self.keys.shard_count) or 0)
        if stored != self.keys.shards:
            raise WrongShardCountError(
                f"this Redis was set up with {stored} shards, not {self.keys.shards}; the number cannot be changed, "
                f"since live sessions would move: use {stored}, or another key prefix"
            )

    async def _shared_secret(self) -> bytes:
        await self._redis.set(self.keys.secret, token_bytes(32), nx=True)
        stored = await self._redis.get(self.keys.secret)
        assert isinstance(stored, bytes), "it was written just before"
        return stored

    async def _keep(self) -> None:
        """Renew, give up what is lost, take what is free; three times per lease. It goes on whatever happens."""
        while not self._stopping:
            try:
                self._leave_lost()
                await self._renew_all()
                await self._acquire_free()
            except (RedisError, OSError) as error:
                logger.warning("leases could not be kept: %s", error)
            except Exception:
                logger.exception("leases could not be kept")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._lease_ms / 3_000)
            self._wake.clear()

    def _leave_lost(self) -> None:
        """Give up what cannot go on, whether or not Redis answers."""
        lost = [
            name
            for name, running in self._running.items()
            if running.owner.lost.is_set() or not running.subscription.running
        ]
        self._leave(lost, MOVES)

    async def _renew_all(self) -> None:
        """What another node has taken is lost, and so is what belonged to an earlier life of the server."""
        held = [running.owner.lease for running in self._running.values()]
        gone = {lease.what.name for lease in await leases.renew(self._redis, held, self._lease_ms)}
        server = await run_id(self._redis)
        gone |= {name for name, running in self._running.items() if running.server != server}
        self._leave(sorted(gone), MOVES)

    async def _acquire_free(self) -> None:
        server = await run_id(self._redis)
        wanted = [leases.shard(self.keys, n) for n in range(self.keys.shards)]
        wanted += [leases.ingress(self.keys, n) for n in range(INGRESSES)]
        free = [what for what in wanted if what.name not in self._running and what.name not in self._leaving]
        got = await leases.acquire(self._redis, free, self._lease_ms, self._address)
        outcomes = await asyncio.gather(*(self._run(lease, server) for lease in got), return_exceptions=True)
        for lease, outcome in zip(got, outcomes, strict=True):
            if isinstance(outcome, Exception):
                logger.error("%s could not be taken over", lease.what.name, exc_info=outcome)
                self._leave([lease.what.name], MOVES)

    async def _run(self, lease: Lease, server: str) -> None:
        owner = self._shard(lease, server) if _is_shard(lease.what) else self._ingress(lease, server)
        subscription = Subscription(self._broker, lease.what.stream, lease.cursor, owner.handle)
        self._running[lease.what.name] = _Running(owner, subscription, server)
        if isinstance(owner, Shard):
            await owner.take_over()
        await subscription.start()

    def _shard(self, lease: Lease, server: str) -> Shard:
        return Shard(
            self._redis,
            self._commits,
            self.keys,
            lease,
            server,
            self._inbox,
            self._effects,
            self.counters,
            self._observer,
            self._wake,
        )

    def _ingress(self, lease: Lease, server: str) -> Ingress:
        return Ingress(self._redis, self._commits, self.keys, lease, server, self._inbox, self.counters)

    def _leave(self, names: list[str], reason: str) -> None:
        """Give up in the background: what takes its time must not cost the leases that are kept."""
        if not names:
            return
        given_up = [self._running.pop(name) for name in names]
        for running in given_up:
            running.owner.lost.set()
        task = asyncio.create_task(self._give_up(given_up, reason), name="giving up")
        self._leaving |= dict.fromkeys(names, task)
        task.add_done_callback(lambda _: self._left(names))

    def _left(self, names: list[str]) -> None:
        for name in names:
            del self._leaving[name]
        self._wake.set()

    async def _give_up(self, given_up: list[_Running], reason: str) -> None:
        """Stop reading, cancel and await what was started, and only then let others take it."""
        for ended in (
            await asyncio.gather(*(running.subscription.stop() for running in given_up), return_exceptions=True),
            await asyncio.gather(*(running.owner.give_up(reason) for running in given_up), return_exceptions=True),
        ):
            for error in ended:
                if isinstance(error, Exception):
                    logger.error("something broke while it was given up", exc_info=error)
        try:
            await leases.release(self._redis, [running.owner.lease for running in given_up])
        except (RedisError, OSError) as error:
            logger.warning("leases could not be released (%s); they expire", error)


def _is_shard(what: Ownable) -> bool:
    return what.name.startswith("shard")
