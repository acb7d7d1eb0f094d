"""The composition root: the only place where parts are wired."""

import asyncio
import gc
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType

from aiohttp import web
from redis.exceptions import RedisError
from sqlalchemy.engine import URL

from events.envelope import Event
from orchestrator.gateway.server import Gateway
from orchestrator.media.handler import MediaHandler, OfferRefused
from orchestrator.media.settings import MediaSettings
from orchestrator.policy_file import PolicyFileError, read_policy
from orchestrator.runtime.effects import Services
from orchestrator.runtime.embedded import EmbeddedRedis
from orchestrator.runtime.history import HistoryKeeper
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node
from orchestrator.services.http_clients import HttpAnswer, HttpIntent, open_session
from orchestrator.services.http_speech import HttpTextToSpeech
from orchestrator.services.ports import SpeechToTextPort
from orchestrator.services.reference.answers import FolderAnswers
from orchestrator.services.reference.content import Content, load_content
from orchestrator.services.reference.intent import PhraseIntents
from orchestrator.services.reference.recognition import SphinxRecognition
from orchestrator.services.reference.server import ReferenceServer
from orchestrator.services.reference.speech import EspeakSpeech
from orchestrator.services.speech_functions import speech_to_text_port, text_to_speech_port
from orchestrator.services.text_functions import answer_port, intent_port
from orchestrator.session.policy import Policy
from orchestrator.settings import Settings, SettingsError
from projections.golden_log import GoldenLog
from projections.history.store import BadDatabaseError, History, database_url
from projections.quiet import Quiet
from projections.registry import METRICS
from projections.telemetry import Telemetry

logger = logging.getLogger(__name__)

STEPS_READ = 16
"""Of the log of a session that was taken over, for its trace: less than two milliseconds of decoding at a time."""


class Orchestrator:
    """The whole service. `async with Orchestrator(settings) as service:` runs it; `service.url` is its address.

    Each port may be filled by a function or object of the user's (docs/services.md); else by the URL in the settings;
    else by the embedded reference service. Raises SettingsError, NoRedisServerError, ServiceError, RedisError, OSError.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        intent: object = None,
        answer: object = None,
        text_to_speech: object = None,
        speech_to_text: object = None,
        print_line: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = settings or Settings.from_environment()
        self.url = ""
        self.redis_url = ""
        self._own = {"intent": intent, "answer": answer, "tts": text_to_speech, "stt": speech_to_text}
        self._print_line = print_line
        self._golden = GoldenLog()
        self._masked = None if self.settings.is_private else GoldenLog(mask=True)
        self._stack = AsyncExitStack()
        self._history: HistoryKeeper | None = None
        self._quiet = Quiet()

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
        database = _database(settings)
        policy = await asyncio.to_thread(_read_policy, settings)
        services = await self._fill_ports()
        self.redis_url = settings.redis_url or await stack.enter_async_context(EmbeddedRedis(settings.data_dir))
        self.node = Node(self.redis_url, services, observer=self._committed, policy=policy)
        self._telemetry = telemetry = Telemetry(
            self._present,
            self._log_of,
            lambda session_id: self.node.session(session_id) is not None,
            layout=settings.trace_layout,
            with_content=settings.trace_content,
            quiet=self._quiet,
        )
        stack.push_async_callback(telemetry.close)
        telemetry.start()
        stack.push_async_callback(self.node.stop)
        media = MediaSettings(ice_host_addresses=settings.ice_host_addresses)
        await _warm_up(media)
        gateway = Gateway(
            self.node,
            services,
            media=media,
            allowed_origins=frozenset(settings.allowed_origins),
            max_sessions=settings.max_sessions,
            metrics=self._metrics,
        )
        await self._listen(gateway.app())
        self.node.address = settings.address or ("" if settings.is_everywhere else self.url)  # known only now
        await self.node.start()
        await self._keep_history(database)
        stack.push_async_callback(self.node.drain)  # first of all, while we can still tell clients where to go
        gc.collect()
        gc.freeze()  # what is there now stays: collecting it again and again would cost calls some milliseconds

    async def _keep_history(self, database: URL) -> None:
        node = self.node
        self._history = HistoryKeeper(
            self.redis_url,
            node.keys,
            database,
            lambda: {number: shard.lease.token for number, shard in node.shards.items()},
            node.counters,
        )
        self._stack.push_async_callback(self._history.stop)
        await self._history.start()

    async def _listen(self, app: web.Application) -> None:
        runner = web.AppRunner(app, shutdown_timeout=5.0)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, self.settings.host, self.settings.port).start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def _committed(self, live: LiveSession, event: Event) -> None:
        """The golden log of the service, what the session's client is shown, metrics and traces."""
        self._quiet.note()
        self._telemetry.note(event)
        line = self._golden.line(event)
        if live.client is not None:
            live.client.committed(event, line)
        printed = self._masked.line(event) if self._masked else line
        if self._print_line is not None and printed is not None:
            self._print_line(printed)

    def _present(self) -> dict[str, float]:
        """What gauges and the runtime's counters say now."""
        node = self.node
        counted = {metric.name: node.counters[metric.counted] for metric in METRICS.values() if metric.counted}
        return {
            "orch.session.active": len(node.sessions),
            "orch.shard.owned": len(node.shards),
            "orch.inbox.queued": node.queued,
            "orch.redis.silence": node.redis_silence_s,
            "orch.history.lag": self._history.lag_s if self._history else 0,
            **counted,
        }

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._telemetry.page(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _log_of(self, session_id: str, first: int) -> list[Event]:
        try:
            return await self.node.read_log(session_id, first=first, most=STEPS_READ)
        except (LookupError, ValueError, RedisError, OSError) as error:
            logger.warning("no trace of %s: its log cannot be read: %s", session_id, error)
            return []

    async def _fill_ports(self) -> Services:
        settings, own = self.settings, self._own
        content = await asyncio.to_thread(load_content, settings.content_dir)
        http = await self._stack.enter_async_context(open_session())
        reference = ""
        if not (
            (own["intent"] or settings.intent_url)
            and (own["answer"] or settings.answer_url)
            and (own["tts"] or settings.tts_url)
        ):
            reference = await self._start_reference(content)
        return Services(
            intent=intent_port(own["intent"]) if own["intent"] else HttpIntent(http, settings.intent_url or reference),
            answer=answer_port(own["answer"]) if own["answer"] else HttpAnswer(http, settings.answer_url or reference),
            text_to_speech=(
                text_to_speech_port(own["tts"]) if own["tts"] else HttpTextToSpeech(http, settings.tts_url or reference)
            ),
            speech_to_text=await self._speech_to_text(content),
        )

    async def _start_reference(self, content: Content) -> str:
        """The embedded reference services, behind the same HTTP contracts as anybody else's; their base URL."""
        speech = EspeakSpeech()
        if not (self._own["tts"] or self.settings.tts_url):
            await speech.start()
        answers = FolderAnswers(content)
        self._stack.callback(answers.close)
        server = ReferenceServer(PhraseIntents(content.intents, content.fillers), answers, speech)
        await self._stack.enter_async_context(server)
        return server.base_url

    async def _speech_to_text(self, content: Content) -> SpeechToTextPort:
        if self._own["stt"]:
            return speech_to_text_port(self._own["stt"])
        recognition = SphinxRecognition(content.phrases(), mode=self.settings.recognizer)
        return await self._stack.enter_async_context(recognition)


def _database(settings: Settings) -> URL:
    """Where the history is kept. The process that keeps it opens it: a service whose database is away takes calls."""
    try:
        return History(database_url(settings.sql_url, settings.data_dir)).url  # made, to know that there is a driver
    except BadDatabaseError as error:
        raise SettingsError(f"ORCH_SQL_URL: {error}") from error


async def _warm_up(media: MediaSettings) -> None:
    try:
        await MediaHandler.warm_up(media)
    except (OfferRefused, OSError) as error:
        logger.warning("no voice call can be set up here, so there are typed ones alone: %s", error)


def _read_policy(settings: Settings) -> Policy:
    if settings.policy_file is None:
        return Policy()
    try:
        return read_policy(settings.policy_file)
    except PolicyFileError as error:
        raise SettingsError(f"ORCH_POLICY_FILE: {error}") from error
