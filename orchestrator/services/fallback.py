"""Several providers for one port: the next is asked when one fails or is late. All sessions share the breakers."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from orchestrator.safe_text import named_error, safe_error
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import (
    NO_SPEAKER,
    Answer,
    AnswerPort,
    Intent,
    IntentPort,
    Recognizer,
    Request,
    Speaker,
    SpeechChunk,
    SpeechToTextPort,
    TextToSpeechPort,
    Transcript,
)

logger = logging.getLogger(__name__)

P = TypeVar("P")
R = TypeVar("R")
Service = Literal["intent", "answer", "text-to-speech", "speech-to-text"]
State = Literal["closed", "open", "half_open"]

FAILURES = 3
"""Failures in a row that open a breaker. One failure of a recogniser does: each costs a caller an utterance."""
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
_OVERDUE_S = 2.0
"""A recogniser that is closed with a final missing for longer counts as failed."""
_MOST_SESSIONS = 10_000


class Breaker:
    """Keeps requests away from a provider that fails.

    Closed: requests pass. After `failures` in a row it opens: none pass for `FIRST_PAUSE_S`, twice as long after each
    further failure. Then it is half open: one request passes, and decides.
    """

    def __init__(self, failures: int, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._clock = clock
        self._in_a_row = 0
        self._pause_s = FIRST_PAUSE_S
        self._opened_s = 0.0
        self.state: State = "closed"

    @property
    def is_ready(self) -> bool:
        """Whether a request may be sent now. Not while a trial runs."""
        if self.state == "open":
            return self._clock() - self._opened_s >= self._pause_s
        return self.state == "closed"

    def begin(self) -> None:
        """Note that a request is sent; to a provider whose breaker is open it is the trial."""
        if self.state == "open":
            self.state = "half_open"

    def succeeded(self) -> None:
        self.state, self._in_a_row, self._pause_s = "closed", 0, FIRST_PAUSE_S

    def failed(self) -> None:
        self._in_a_row += 1
        if self.state == "half_open":
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        if self.state == "half_open" or self._in_a_row >= self._limit:
            self.state, self._opened_s = "open", self._clock()

    def abandoned(self) -> None:
        """The request ended without a verdict: it was cancelled. Another trial may follow at once."""
        if self.state == "half_open":
            self.state, self._opened_s = "open", self._clock() - self._pause_s


@dataclass(frozen=True, slots=True)
class Switch:
    """From now on a session's `service` is that of `provider`; `reason` says why another one was given up."""

    session_id: str
    service: Service
    provider: str
    reason: str


class Health:
    """What the breakers of a process say, for metrics. `on_switch` is called for each session that changes provider."""

    def __init__(self, on_switch: Callable[[Switch], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._on_switch = on_switch
        self._clock = clock
        self._breakers: list[Breaker] = []
        self.switches = 0

    def breaker(self, failures: int) -> Breaker:
        self._breakers.append(breaker := Breaker(failures, self._clock))
        return breaker

    def note(self, switch: Switch) -> None:
        """Count and log a switch, and report it."""
        self.switches += 1
        why = ServiceError(switch.reason, in_our_words="the one before failed") if switch.reason else "it is back"
        logger.warning("[%s] %s is %s from now on: %s", switch.session_id, switch.service, switch.provider, why)
        self._on_switch(switch)

    @property
    def broken(self) -> int:
        """Number of providers that get no request, or one trial, because they fail."""
        return sum(breaker.state != "closed" for breaker in self._breakers)


@dataclass(frozen=True, slots=True)
class Provider(Generic[P]):
    """One of several services for a port."""

    name: str
    port: P
    breaker: Breaker


class Providers(Generic[P]):
    """The providers of one service, first choice first. `patience_s`: after this the next one is asked."""

    def __init__(
        self, service: Service, ports: Sequence[P], health: Health, patience_s: float, failures: int = FAILURES
    ) -> None:
        self.patience_s = patience_s
        self._service = service
        self._health = health
        names = _names([name_of(port) for port in ports])
        self._all = [Provider(name, port, health.breaker(failures)) for name, port in zip(names, ports, strict=True)]
        self._last_used: OrderedDict[str, str] = OrderedDict()
        """Session → provider of its last request."""

    def in_turn(self) -> list[Provider[P]]:
        """The providers to ask: those whose breakers let a request pass; all of them when none does."""
        return [provider for provider in self._all if provider.breaker.is_ready] or list(self._all)

    @contextmanager
    def asking(self, provider: Provider[P]) -> Iterator[None]:
        """Tell the breaker how a request ends. Every exception is a failure, except that nobody waits any more."""
        provider.breaker.begin()
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            provider.breaker.abandoned()
            raise
        except Exception:
            provider.breaker.failed()
            raise
        provider.breaker.succeeded()

    def use(self, session_id: str, provider: Provider[P], reason: str = "") -> None:
        """Note that a session is served by a provider. Reports a switch if its last request went to another one."""
        before = self._last_used.pop(session_id, self._all[0].name)
        self._last_used[session_id] = provider.name
        if len(self._last_used) > _MOST_SESSIONS:
            self._last_used.popitem(last=False)
        if before != provider.name:
            self._health.note(Switch(session_id, self._service, provider.name, reason))

    async def ask(self, session_id: str, request: Callable[[P], Awaitable[R]]) -> tuple[Provider[P], R]:
        """The first provider that has a result in time, and its result. Raises the error of the last provider."""
        reason = ""
        *before, last = self.in_turn()
        for provider in before:
            try:
                with self.asking(provider):
                    async with asyncio.timeout(self.patience_s):
                        result = await request(provider.port)
            except Exception as error:  # noqa: BLE001 - of any kind: the next provider may do better
                reason = _why(error, provider.name, self.patience_s)
                continue
            self.use(session_id, provider, reason)
            return provider, result
        with self.asking(last):
            result = await request(last.port)
        self.use(session_id, last, reason)
        return last, result


def _why(error: Exception, name: str, patience_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"{name}: nothing within {patience_s:g} s"
    return safe_error(error) if isinstance(error, ServiceError) else named_error(error)


def name_of(port: object) -> str:
    """The name of a provider in logs and events: its own `name`, else its type."""
    name = getattr(port, "name", "")
    return name if isinstance(name, str) and name else type(port).__name__


def _names(names: list[str]) -> list[str]:
    """Distinct names: the second of two equal ones gets a number."""
    return [f"{name} {names[:at].count(name) + 1}" if name in names[:at] else name for at, name in enumerate(names)]


class FallbackIntent:
    """IntentPort over several."""

    def __init__(self, providers: Providers[IntentPort]) -> None:
        self._providers = providers

    async def classify(self, request: Request) -> Intent:
        """The intent of the first provider that has one in time. Raises ServiceError."""
        _, intent = await self._providers.ask(request.session_id, lambda port: port.classify(request))
        return intent


class FallbackAnswer:
    """AnswerPort over several: the first piece decides. An answer that breaks later is not begun anew, since the user
    has heard its beginning.
    """

    def __init__(self, providers: Providers[AnswerPort]) -> None:
        self._providers = providers

    async def stream(self, request: Request) -> AsyncGenerator[str | Answer, None]:
        """The pieces of the first provider that has one in time. Raises ServiceError."""

        def begin(port: AnswerPort) -> AsyncGenerator[str | Answer, None]:
            request.attempt.begin()
            return port.stream(request)

        async with aclosing(_from_the_first(self._providers, request, begin)) as pieces:
            async for piece in pieces:
                yield piece


class FallbackTextToSpeech:
    """TextToSpeechPort over several: the first chunk decides. A synthesis that breaks later is not begun anew, since
    the user has heard its beginning.
    """

    def __init__(self, providers: Providers[TextToSpeechPort]) -> None:
        self._providers = providers

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        """The chunks of the first provider that has one in time. Raises ServiceError."""
        begun = _from_the_first(self._providers, request, lambda port: port.synthesize(request))
        async with aclosing(begun) as chunks:
            async for chunk in chunks:
                yield chunk


async def _from_the_first(
    providers: Providers[P], request: Request, begin: Callable[[P], AsyncGenerator[R, None]]
) -> AsyncGenerator[R, None]:
    """The items of the first provider that has one in time."""

    async def first_of(port: P) -> tuple[AsyncGenerator[R, None], R | None]:
        items = begin(port)
        try:
            return items, await anext(items, None)
        except BaseException:
            await items.aclose()
            raise

    provider, (items, first) = await providers.ask(request.session_id, first_of)
    async with aclosing(items):
        if first is None:
            return
        yield first
        try:
            async for item in items:
                yield item
        except ServiceError:
            provider.breaker.failed()
            raise


class FallbackSpeechToText:
    """SpeechToTextPort over several. A recogniser that breaks opens its breaker: the next one is another provider's."""

    def __init__(self, providers: Providers[SpeechToTextPort]) -> None:
        self._providers = providers

    async def open(
        self,
        on_transcript: Callable[[Transcript], None],
        on_error: Callable[[str], None],
        speaker: Speaker = NO_SPEAKER,
    ) -> Recognizer:
        """A recogniser of the first provider that opens one in time. Raises ServiceError."""
        watch = _Watch(on_transcript, on_error)
        provider, recognizer = await self._providers.ask(
            speaker.session_id, lambda port: port.open(watch.transcribed, watch.failed, speaker)
        )
        watch.breaker = provider.breaker
        return _WatchedRecognizer(recognizer, watch)


class _Watch:
    """Tells a breaker how a recogniser does: a final is a success, an error or a missing final a failure."""

    def __init__(self, on_transcript: Callable[[Transcript], None], on_error: Callable[[str], None]) -> None:
        self._on_transcript = on_transcript
        self._on_error = on_error
        self.breaker: Breaker | None = None
        self.finished_s: list[float] = []
        """When each utterance was finished whose final is missing."""

    def transcribed(self, transcript: Transcript) -> None:
        if transcript.is_final:
            del self.finished_s[:1]
            if self.breaker is not None:
                self.breaker.succeeded()
        self._on_transcript(transcript)

    def failed(self, error: str) -> None:
        self.finished_s.clear()
        if self.breaker is not None:
            self.breaker.failed()
        self._on_error(error)


class _WatchedRecognizer:
    """A recogniser whose breaker learns of it when it hangs or raises."""

    def __init__(self, recognizer: Recognizer, watch: _Watch) -> None:
        self._recognizer = recognizer
        self._watch = watch

    def start(self) -> None:
        self._try(self._recognizer.start)

    def feed(self, pcm: bytes) -> None:
        self._try(lambda: self._recognizer.feed(pcm))

    def finish(self) -> None:
        self._watch.finished_s.append(time.monotonic())
        self._try(self._recognizer.finish)

    def cancel(self) -> None:
        self._watch.finished_s.clear()
        self._try(self._recognizer.cancel)

    async def close(self) -> None:
        if self._watch.finished_s and time.monotonic() - self._watch.finished_s[0] > _OVERDUE_S:
            assert self._watch.breaker is not None, "it is set when the recogniser is open"
            self._watch.breaker.failed()
        await self._recognizer.close()

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            assert self._watch.breaker is not None, "it is set when the recogniser is open"
            self._watch.breaker.failed()
            raise
