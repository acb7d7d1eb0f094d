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
from orchestrator.services.breaker import Breaker, Watch, WatchedRecognizer
from orchestrator.services.failures import ServiceError, cancellation_from_within_fails
from orchestrator.services.http_clients import HttpAnswer
from orchestrator.services.patience import Patience, ProviderJournal
from orchestrator.services.ports import (
    NO_SPEAKER,
    SHORTEST_SOUND_US,
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
    has_words,
)

logger = logging.getLogger(__name__)

P = TypeVar("P")
R = TypeVar("R")
Service = Literal["intent", "answer", "text-to-speech", "speech-to-text"]

FAILURES = 3
"""Failures in a row that open a breaker. One failure of a recogniser does: each costs a caller an utterance."""
_MOST_SESSIONS = 10_000
_MOST_SILENT = 200
"""Chunks that a text-to-speech may send before its first sound."""


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
    """One of several services for a port. `number`: its place in their order, from 1."""

    name: str
    port: P
    breaker: Breaker
    number: int


class Providers(Generic[P]):
    """The providers of one service, first choice first. `patience_s`: after this the next one is asked."""

    def __init__(
        self, service: Service, ports: Sequence[P], health: Health, patience_s: float, failures: int = FAILURES
    ) -> None:
        self.patience_s = patience_s
        self._service = service
        self._health = health
        names = _names([name_of(port) for port in ports])
        self._all = [
            Provider(name, port, health.breaker(failures), number)
            for number, (name, port) in enumerate(zip(names, ports, strict=True), 1)
        ]
        self._last_used: OrderedDict[str, str] = OrderedDict()
        """Session → provider of its last request."""

    def in_turn(self) -> list[Provider[P]]:
        """The providers to ask: those whose breakers let a request pass; all of them when none does."""
        return [provider for provider in self._all if provider.breaker.is_ready] or list(self._all)

    @contextmanager
    def asking(self, provider: Provider[P]) -> Iterator[None]:
        """Tell the breaker if a request fails: every exception does, except that nobody waits any more."""
        provider.breaker.begin()
        try:
            with cancellation_from_within_fails(provider.name):
                yield
        except (asyncio.CancelledError, GeneratorExit):
            provider.breaker.abandoned()
            raise
        except Exception as error:
            provider.breaker.failed(_why(error, provider.name, self.patience_s, mask=True))
            raise

    @contextmanager
    def streaming(self, provider: Provider[P], patience: Patience) -> Iterator[None]:
        """Tell the breaker how the rest of a stream ends. The listener may close it: a success, unless they have waited
        for the next item for longer than the deadline.
        """
        try:
            with cancellation_from_within_fails(provider.name):
                yield
        except (asyncio.CancelledError, GeneratorExit) as closed:
            waited_s = 0.0 if isinstance(closed, GeneratorExit) else patience.waited_s
            if waited_s > self.patience_s * len(self._all):
                provider.breaker.failed(f"{provider.name}: nothing more for {waited_s:.0f} s")
            else:
                provider.breaker.succeeded()
            raise
        except Exception as error:
            provider.breaker.failed(_why(error, provider.name, self.patience_s, mask=True))
            raise
        provider.breaker.succeeded()

    def use(self, session_id: str, provider: Provider[P], reason: str = "") -> None:
        """Note that a session is served by a provider. Reports a switch if its last request went to another one."""
        before = self._last_used.pop(session_id, self._all[0].name)
        self._last_used[session_id] = provider.name
        if len(self._last_used) > _MOST_SESSIONS:
            self._last_used.popitem(last=False)
        if before != provider.name:
            first = self._all[0]
            if not reason and provider is not first:  # the breaker of the first choice is open
                reason = f"{first.name} has failed before ({first.breaker.why})"
            self._health.note(Switch(session_id, self._service, provider.name, reason))

    async def ask(
        self, session_id: str, request: Callable[[Provider[P], Patience], Awaitable[R]]
    ) -> tuple[Provider[P], R]:
        """The first provider that has a result in time, and its result. Raises the error of the last provider.

        The breakers learn of failures here. Whether the result is a success, the caller tells.
        """
        reason = ""
        *before, last = self.in_turn()
        for provider in before:
            patience = Patience(self.patience_s)
            try:
                with self.asking(provider):
                    result = await patience.limit(request(provider, patience))
            except Exception as error:  # noqa: BLE001 - of any kind: the next provider may do better
                reason = _why(error, provider.name, self.patience_s)
                continue
            self.use(session_id, provider, reason)
            return provider, result
        with self.asking(last):
            result = await request(last, Patience(None))
        self.use(session_id, last, reason)
        return last, result


def _why(error: Exception, name: str, patience_s: float, *, mask: bool = False) -> str:
    if isinstance(error, TimeoutError):
        return f"{name}: nothing within {patience_s:g} s"
    return safe_error(error, mask=mask) if isinstance(error, ServiceError) else named_error(error, mask=mask)


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
        provider, intent = await self._providers.ask(
            request.session_id, lambda provider, _: provider.port.classify(request)
        )
        provider.breaker.succeeded()
        return intent


class FallbackAnswer:
    """AnswerPort over several: the first words decide. An answer that breaks later is not begun anew, since the user
    has heard its beginning.
    """

    def __init__(self, providers: Providers[AnswerPort]) -> None:
        self._providers = providers

    async def stream(self, request: Request) -> AsyncGenerator[str | Answer, None]:
        """The pieces of the first provider that has one in time; a pending tool call takes none of it. Raises
        ServiceError.
        """
        attempt, journal = request.attempt, request.attempt.journal

        def begin(provider: Provider[AnswerPort], patience: Patience) -> AsyncGenerator[str | Answer, None]:
            runs_tools = isinstance(provider.port, HttpAnswer)
            attempt.journal = ProviderJournal(journal, patience, provider.number, runs_tools=runs_tools)
            attempt.begin()
            return provider.port.stream(request)

        async def first(items: AsyncGenerator[str | Answer, None]) -> list[str | Answer]:
            pieces: list[str | Answer] = []
            async for piece in items:
                pieces.append(piece)
                if isinstance(piece, Answer) or piece.strip():
                    break
            return pieces

        async with aclosing(_from_the_first(self._providers, request, begin, first)) as pieces:
            async for piece in pieces:
                yield piece


class FallbackTextToSpeech:
    """TextToSpeechPort over several: the first sound decides. A synthesis that breaks later is not begun anew, since
    the user has heard its beginning.
    """

    def __init__(self, providers: Providers[TextToSpeechPort]) -> None:
        self._providers = providers

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        """The chunks of the first provider that has sound in time. Raises ServiceError."""

        def begin(provider: Provider[TextToSpeechPort], _: Patience) -> AsyncGenerator[SpeechChunk, None]:
            return provider.port.synthesize(request)

        async def sound(items: AsyncGenerator[SpeechChunk, None]) -> list[SpeechChunk]:
            return await _until_sound(items, needs_sound=has_words(request.text))

        async with aclosing(_from_the_first(self._providers, request, begin, sound)) as chunks:
            async for chunk in chunks:
                yield chunk


async def _until_sound(items: AsyncGenerator[SpeechChunk, None], *, needs_sound: bool) -> list[SpeechChunk]:
    """The first chunks, up to the first sound. Raises ServiceError if there is none although it is needed."""
    chunks: list[SpeechChunk] = []
    length_us = 0
    async for chunk in items:
        chunks.append(chunk)
        length_us += chunk.duration_us
        if length_us >= SHORTEST_SOUND_US or not needs_sound:
            return chunks
        if len(chunks) == _MOST_SILENT:
            break
    if needs_sound:
        problem = "no sound for a text with words; does the voice know the language?"
        raise ServiceError(problem, in_our_words=problem)
    return chunks


async def _from_the_first(
    providers: Providers[P],
    request: Request,
    begin: Callable[[Provider[P], Patience], AsyncGenerator[R, None]],
    head: Callable[[AsyncGenerator[R, None]], Awaitable[list[R]]],
) -> AsyncGenerator[R, None]:
    """The items of the first provider whose `head`, the items that decide, comes in time."""

    async def head_of(provider: Provider[P], patience: Patience) -> tuple[Patience, AsyncGenerator[R, None], list[R]]:
        items = begin(provider, patience)
        try:
            return patience, items, await head(items)
        except BaseException:
            await items.aclose()
            raise

    provider, (patience, items, first) = await providers.ask(request.session_id, head_of)
    async with aclosing(items):
        with providers.streaming(provider, patience):
            for item in first:
                yield item
            patience.restart()
            async for item in items:
                yield item
                patience.restart()


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

        async def begin(provider: Provider[SpeechToTextPort], _: Patience) -> Recognizer:
            watch = Watch(on_transcript, on_error, provider.breaker, provider.name)
            return WatchedRecognizer(await provider.port.open(watch.transcribed, watch.failed, speaker), watch)

        return (await self._providers.ask(speaker.session_id, begin))[1]
