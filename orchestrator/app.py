"""The composition root: wires all parts of the service; no other module does."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from socket import (
    AF_INET6,
    AI_PASSIVE,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from types import TracebackType
from urllib.parse import urlsplit

from aiohttp import web
from prometheus_client.exposition import choose_encoder
from redis.exceptions import RedisError

from events.envelope import Event
from events.inputs import ProviderSwitched
from orchestrator.gateway.access.guard import Authenticate
from orchestrator.gateway.access.setup import Check, check_of
from orchestrator.gateway.door import Connections, Door, OwnDoor, SharedDoor, cannot_listen, listening
from orchestrator.gateway.ice_servers import IceServers
from orchestrator.gateway.server import Gateway
from orchestrator.gateway.tls import tls
from orchestrator.line_writer import LineWriter, lost_lines
from orchestrator.media.handler import MediaHandler
from orchestrator.media.settings import MediaSettings
from orchestrator.policy_file import PolicyFileError, read_policy
from orchestrator.port_filling import fill_ports, users_ports
from orchestrator.runtime.effects.effects import Services
from orchestrator.runtime.history.supervisor import HistoryKeeper
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from orchestrator.safe_log import SAFE_LOG, guard_our_loggers
from orchestrator.safe_text import MOST_OF_AN_ERROR
from orchestrator.services.fallback import Health, Switch
from orchestrator.services.ports import AnswerPort
from orchestrator.session.policy import Policy
from orchestrator.settings import Settings, SettingsError
from orchestrator.siblings.siblings import ServiceProbes, Siblings, with_port_of
from orchestrator.web_names import url_of
from projections.golden_log import GoldenLog
from projections.quiet import Quiet
from projections.registry import METRICS
from projections.telemetry import Telemetry

logger = logging.getLogger(__name__)

PAGE_S = 1.0
STEPS_READ = 16
"""Steps read at a time from the log of a session after a takeover, for its trace: less than 2 ms of decoding."""


class Orchestrator:
    """The whole service. `async with Orchestrator(settings) as service:` runs it; `service.url` is its address.

    Each port uses the user's function or object if one is given (docs/services.md), else the URL in the settings, else
    the embedded reference service (extra `demo`). A list is a fallback: the next one is asked when one fails or is
    late. `authenticate` decides who may come in (docs/security.md), in place of the keys in the settings. `print_line`
    gets each line of the golden log in a separate thread: calls do not wait for it. `console` starts `orch console` on
    the first request for it and returns its URL. Raises TypeError for a thing that cannot fill its port, SettingsError,
    NoRedisServerError, ServiceError, RedisError, OSError.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        intent: object = None,
        answer: object = None,
        text_to_speech: object = None,
        speech_to_text: object = None,
        authenticate: Authenticate | None = None,
        print_line: Callable[[str], None] | None = None,
        console: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self.settings = settings or Settings.from_environment()
        guard_our_loggers()
        self.url = ""
        self.operators_url = ""
        """Where metrics and readiness are without a token; empty unless ORCH_OPERATORS is set."""
        self.redis_url = ""
        self._own = users_ports(intent=intent, answer=answer, tts=text_to_speech, stt=speech_to_text)
        self._health = Health(self._switched)
        self._authenticate = authenticate
        self.print_line = print_line
        self.console = console
        self.siblings: Siblings | None = None
        """Set before the start in each of several processes (`orch serve --processes N`)."""
        self._lines: LineWriter | None = None
        self._golden = GoldenLog()
        self._masked: GoldenLog | None = GoldenLog(mask=True)
        self._stack = AsyncExitStack()
        self._history: HistoryKeeper | None = None
        self._common: list[SharedDoor] = []
        """Where all processes of the service listen: the door of callers, and that of operators if there is one."""
        self._quiet = Quiet()

    @property
    def own_answers(self) -> Sequence[AnswerPort]:
        """The answer services that the program gave, first choice first; empty: those of the settings answer."""
        return self._own["answer"]

    async def __aenter__(self) -> "Orchestrator":
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        settings, stack = self.settings, self._stack
        # Known only now: `orch serve --host` changes the settings of a user's service.
        SAFE_LOG.mask = not settings.is_private
        self._masked = None if settings.is_private else GoldenLog(mask=True)
        if self.print_line is not None:
            self._lines = LineWriter(self.print_line, "the golden log", logger.warning)
            stack.push_async_callback(asyncio.to_thread, self._lines.close)
        await _refuse_a_port_in_use(settings.host, settings.port)
        check = check_of(settings, self._authenticate)
        stack.push_async_callback(check.close)
        if settings.sql_url:
            await asyncio.to_thread(_check_database, settings)
        policy = await asyncio.to_thread(_read_policy, settings)
        services = await fill_ports(settings, policy, self._own, stack, self._health)
        embedded = EmbeddedRedis(settings.data_dir, settings.redis_memory_mb, alone=True)
        self.redis_url = settings.redis_url or await stack.enter_async_context(embedded)
        self.node = Node(self.redis_url, services, observer=self._committed, policy=policy)
        self._telemetry = telemetry = Telemetry(
            self._present,
            self._log_of,
            lambda session_id: self.node.session(session_id) is not None,
            layout=settings.trace_layout,
            with_content=settings.trace_content,
            quiet=self._quiet,
        )
        self._own_pages = SharedPages(telemetry.page)
        self._pages = SharedPages(self.siblings.page) if self.siblings else self._own_pages
        stack.push_async_callback(telemetry.close)
        telemetry.start()
        stack.push_async_callback(self.node.stop)
        media = MediaSettings(
            ice_host_addresses=settings.ice_host_addresses,
            public_address=settings.public_address,
            udp_ports=settings.udp_ports,
            relay=settings.relay,
            turn_secret=settings.turn_secret,
            language=settings.language,
        )
        await _warm_up(media)
        gateway = self._gateway(services, media, check)
        await self._listen(gateway)
        named = settings.address or ("" if settings.is_everywhere else self.url)
        self.node.address = with_port_of(self.url, named) if self.siblings else named  # known only after listening
        await self.node.start()
        if self.siblings:
            await stack.enter_async_context(self._beside(self.siblings, gateway))
        else:
            await self._keep_history()
        stack.push_async_callback(self._drain)  # first on shutdown, while clients can still be sent to other nodes
        gc.collect()
        gc.freeze()  # exclude objects of the startup from collections: scanning them delays calls by some milliseconds

    def _gateway(self, services: Services, media: MediaSettings, check: Check) -> Gateway:
        settings = self.settings
        return Gateway(
            self.node,
            services,
            media=media,
            allowed_origins=(*settings.allowed_origins, *(self.siblings.facts.origins if self.siblings else ())),
            allowed_hosts=settings.allowed_hosts,
            is_private=settings.is_private,
            max_sessions=settings.max_sessions,
            inputs_per_minute=settings.inputs_per_minute,
            metrics=self._metrics,
            authenticate=check.authenticate,
            is_development=check.is_development,
            trusted_proxies=settings.trusted_proxies,
            ice_servers=IceServers(settings.ice_servers, settings.turn_secret),
            console=None if self._authenticate else self.console,  # it is another process and cannot call the check
        )

    async def _keep_history(self) -> None:
        node, settings = self.node, self.settings
        self._history = HistoryKeeper(
            self.redis_url,
            node.keys,
            settings.sql_url,
            settings.data_dir,
            self._owned,
            node.counters,
        )
        self._stack.push_async_callback(self._history.stop)
        await self._history.start()

    def _beside(self, siblings: Siblings, gateway: Gateway) -> AbstractAsyncContextManager[None]:
        """Take calls at the doors of all processes, and tell the supervisor of load, shards and metrics."""
        node, doors = self.node, self._common

        def look() -> None:
            for door in doors:
                door.look()

        probes = ServiceProbes(
            connections=lambda: gateway.connections.count + sum(len(door.entering) for door in doors),
            has_room=lambda: gateway.has_room and not any(door.is_out_of_files for door in doors),
            is_ready=lambda: node.ready,
            owned=self._owned,
            count=node.counters.update,
            page=self._own_pages.page,
        )
        return siblings.working(probes, look)

    async def _drain(self) -> None:
        await self.node.drain(self.siblings.leaving if self.siblings else ())

    def _owned(self) -> dict[int, str]:
        return {number: shard.lease.token for number, shard in self.node.shards.items()}

    async def _listen(self, gateway: Gateway) -> None:
        settings = self.settings
        if siblings := self.siblings:
            given = filter(None, (siblings.door, siblings.operators))
            self._common = [SharedDoor(listener, siblings.may_accept) for listener in given]
        context = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            context = await self._stack.enter_async_context(tls(settings.tls_cert, settings.tls_key))
        doors: list[Door] = [OwnDoor(settings.host, settings.port), *self._common[:1]]
        serving = listening(gateway.app(), gateway.connections, doors, context)
        self.url = url_of("https" if context else "http", *await self._stack.enter_async_context(serving))
        if settings.operators:
            at = urlsplit(f"//{settings.operators}")
            few = Connections(0, self.node.counters)
            doors = [*self._common[1:]] or [OwnDoor(at.hostname or "", at.port or 0)]
            serving = listening(gateway.operators_app(), few, doors)
            self.operators_url = url_of("http", *await self._stack.enter_async_context(serving))

    def _committed(self, live: LiveSession, event: Event) -> None:
        """Pass a committed event to traces, metrics, the session's client and the golden log."""
        self._quiet.note()
        self._telemetry.note(event)
        line = self._golden.line(event)
        if live.client is not None:
            live.client.committed(event, line)
        printed = self._masked.line(event) if self._masked else line
        if self._lines is not None and printed is not None:
            self._lines.put(printed)

    def _present(self) -> dict[str, float]:
        """The current values of the gauges and of the runtime's counters."""
        node, history = self.node, self.siblings or self._history
        node.counters["lost_lines"] = lost_lines()
        node.counters["provider_switches"] = self._health.switches
        counted = {metric.name: node.counters[metric.counted] for metric in METRICS.values() if metric.counted}
        return {
            "orch.session.active": len(node.sessions),
            "orch.shard.owned": len(node.shards),
            "orch.inbox.queued": node.queued,
            "orch.redis.silence": node.redis_silence_s,
            "orch.service.broken": self._health.broken,
            "orch.history.lag": history.lag_s if history else 0,
            **counted,
        }

    def _switched(self, switch: Switch) -> None:
        """Record in the session's log that one of its services is another provider's from now on."""
        if switch.session_id:
            event = ProviderSwitched(
                session_id=switch.session_id,
                service=switch.service,
                provider=switch.provider[:MOST_OF_AN_ERROR],
                reason=switch.reason[:MOST_OF_AN_ERROR],
            )
            self.node.report(event)

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._pages.page(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _log_of(self, session_id: str, first: int) -> list[Event]:
        try:
            return await self.node.read_log(session_id, first=first, most=STEPS_READ)
        except (LookupError, ValueError, RedisError, OSError) as error:
            logger.warning("no trace of %s: its log cannot be read: %s", session_id, error)
            return []


async def _refuse_a_port_in_use(host: str, port: int) -> None:
    """Check that the port is free before anything starts, so that the error comes at once. Raises OSError."""
    loop = asyncio.get_running_loop()
    try:
        for family, _, _, _, address in await loop.getaddrinfo(host or None, port, type=SOCK_STREAM, flags=AI_PASSIVE):
            with socket(family, SOCK_STREAM) as probe:
                probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
                if family == AF_INET6:
                    probe.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        raise cannot_listen(host, port, error) from error


class SharedPages:
    """Caches /metrics for one second: each page takes 20 ms of work."""

    def __init__(self, make: Callable[[str], Awaitable[tuple[bytes, str]]]) -> None:
        self._make = make
        self._making = asyncio.Lock()
        self._made: dict[str, tuple[float, tuple[bytes, str]]] = {}

    async def page(self, accept: str) -> tuple[bytes, str]:
        _, content_type = choose_encoder(accept)
        loop = asyncio.get_running_loop()
        async with self._making:
            made_s, page = self._made.get(content_type, (-PAGE_S, (b"", "")))
            if loop.time() - made_s >= PAGE_S:
                page = await self._make(accept)
                self._made[content_type] = loop.time(), page
        return page


def _check_database(settings: Settings) -> None:
    """Check the URL of the history's database. Does not connect: the service takes calls while the database is down.

    Raises SettingsError.
    """
    # SQLAlchemy takes a second to import, and only the history's own process needs it.
    from projections.history.store import BadDatabaseError, History, database_url

    try:
        History(database_url(settings.sql_url, settings.data_dir))  # it checks that there is a driver
    except BadDatabaseError as error:
        raise SettingsError(f"ORCH_SQL_URL: {error}") from error


async def _warm_up(media: MediaSettings) -> None:
    try:
        await MediaHandler.warm_up(media)
    except Exception as error:  # noqa: BLE001 - whatever the libraries lack here; typed conversations need none of it
        logger.warning("no voice call can be set up here, so there are typed ones alone: %r", error)


def _read_policy(settings: Settings) -> Policy:
    if settings.policy_file is None:
        return Policy()
    try:
        return read_policy(settings.policy_file)
    except PolicyFileError as error:
        raise SettingsError(f"ORCH_POLICY_FILE: {error}") from error
