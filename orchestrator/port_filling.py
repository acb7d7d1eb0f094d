"""Chooses the service for each port: the user's function or object, the settings' service, or the reference agent's.

Several services for one port are a fallback.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from orchestrator.adapters import adapted
from orchestrator.reference import what_to_install
from orchestrator.runtime.effects.effects import Services
from orchestrator.safe_text import named_error
from orchestrator.services.failures import ServiceError
from orchestrator.services.fallback import (
    FallbackAnswer,
    FallbackIntent,
    FallbackSpeechToText,
    FallbackTextToSpeech,
    Health,
    Providers,
    Service,
    name_of,
)
from orchestrator.services.http_clients import HttpAnswer, HttpIntent, open_session
from orchestrator.services.http_speech import HttpTextToSpeech
from orchestrator.services.ports import Intent, Request
from orchestrator.services.socket_speech import SocketSpeechToText
from orchestrator.services.speech_functions import speech_to_text_port, text_to_speech_port
from orchestrator.services.text_functions import answer_port, intent_port
from orchestrator.session.policy import Policy
from orchestrator.settings import Settings

logger = logging.getLogger(__name__)

CLOSE_S = 10.0
"""How long a port of the user's may take to close."""

Ports = Mapping[str, Sequence[Any]]
"""Name of a port ("intent", "answer", "tts", "stt") → its services, first choice first; none: nobody has named one."""

_PORTS: Mapping[str, Callable[[object], Any]] = {
    "intent": intent_port,
    "answer": answer_port,
    "tts": text_to_speech_port,
    "stt": speech_to_text_port,
}
_IN_WORDS: Mapping[str, Service] = {
    "intent": "intent",
    "answer": "answer",
    "tts": "text-to-speech",
    "stt": "speech-to-text",
}
_OPEN_MS = 4_000
"""To a recogniser; with several providers each has its part of it."""


def users_ports(**given: object) -> Ports:
    """The ports of the functions and objects that a user gives, one or a list for each name.

    Raises TypeError for a thing that cannot fill its port.
    """
    return {name: [_users_port(name, adapted(thing)) for thing in _several(things)] for name, things in given.items()}


def _users_port(name: str, thing: object) -> Any:
    port = _PORTS[name](thing)
    return port if port is thing or not _is_opened(thing) else _Opened(port, thing)


class _Opened:
    """A port that is made from a user's object, such as one with a method `answer`, and opened as that object is."""

    def __init__(self, port: Any, thing: Any) -> None:
        self.name = name_of(port)
        self.thing = thing
        self._port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    async def __aenter__(self) -> Self:
        await self.thing.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.thing.__aexit__(*error)


def _is_opened(thing: object) -> bool:
    """Whether it is an async context manager."""
    return hasattr(type(thing), "__aenter__") and hasattr(type(thing), "__aexit__")


def _several(things: object) -> Sequence[object]:
    if isinstance(things, list | tuple):
        return things
    return () if things is None else (things,)


async def fill_ports(
    settings: Settings, policy: Policy, given: Ports, stack: AsyncExitStack, health: Health
) -> Services:
    """Open the services for all four ports; `stack` closes them. Raises ServiceError."""
    ports = {name: list(services) for name, services in given.items()}
    opened = set[int]()
    for port in (port for services in ports.values() for port in services):
        thing = port.thing if isinstance(port, _Opened) else port
        if id(thing) not in opened:  # one object may fill several ports
            opened.add(id(thing))
            await enter(port, stack)
    http = await stack.enter_async_context(open_session())
    ports["intent"] += [
        HttpIntent(http, url, headers=settings.intent_headers) for url in _named(ports["intent"], settings.intent_url)
    ]
    ports["answer"] += [
        HttpAnswer(http, url, headers=settings.answer_headers) for url in _named(ports["answer"], settings.answer_url)
    ]
    ports["tts"] += [
        HttpTextToSpeech(http, url, headers=settings.tts_headers) for url in _named(ports["tts"], settings.tts_url)
    ]
    ports["stt"] += [
        SocketSpeechToText(http, url, headers=settings.stt_headers) for url in _named(ports["stt"], settings.stt_url)
    ]
    if settings.model_url and not ports["answer"]:
        ports["answer"] = [await _model(settings, stack)]
    if policy.intent.skip and not ports["intent"]:
        ports["intent"] = [_NeverAsked()]
    await _fill_with_reference([name for name, services in ports.items() if not services], ports, settings, http, stack)
    return _services(ports, policy, health)


async def _model(settings: Settings, stack: AsyncExitStack) -> Any:
    """The answers of a language model that knows the content of the demo agent. Raises ServiceError."""
    from orchestrator.adapters.openai_answer import OpenAIAnswer  # only for who wants it
    from orchestrator.reference.prompt import instructions

    told = await asyncio.to_thread(instructions, settings.content_dir)
    return await stack.enter_async_context(
        OpenAIAnswer(settings.model_name, instructions=told, base_url=settings.model_url)
    )


class _NeverAsked:
    """The intent port where the policy skips the intent."""

    async def classify(self, request: Request) -> Intent:
        raise ServiceError(f"no intent service, and a policy that skips it: session {request.session_id} has another")


def _named(services: Sequence[Any], urls: str) -> list[str]:
    """The services of a setting, separated by blanks. They count only where a program has given none."""
    return [] if services else urls.split()


async def enter(port: Any, stack: AsyncExitStack) -> None:
    """Open a port that is an async context manager, and close it with the stack. Raises ServiceError."""
    if _is_opened(port):
        try:
            await port.__aenter__()
        except ServiceError:
            raise
        except Exception as error:
            raise ServiceError(f"{name_of(port)} cannot be opened: {named_error(error)}") from error
        stack.push_async_callback(_close, port)


async def _close(port: Any) -> None:
    """Close a port within CLOSE_S, in the task that opened it, as libraries such as anyio demand. A port that hangs or
    raises does not keep other ports, or the process, from ending.
    """
    try:
        async with asyncio.timeout(CLOSE_S):
            await port.__aexit__(None, None, None)
    except TimeoutError:
        logger.error("%s did not close within %g s; going on without it", name_of(port), CLOSE_S)  # noqa: TRY400
    except Exception:
        logger.exception("%s broke while it was closed", name_of(port))


async def _fill_with_reference(
    vacant: list[str], ports: dict[str, list[Any]], settings: Settings, http: Any, stack: AsyncExitStack
) -> None:
    """Fill vacant ports with the reference agent. Raises ServiceError, also when the extra `demo` is not installed."""
    if not vacant:
        return
    if advice := what_to_install(vacant, settings.recognizer, settings.voice):
        raise ServiceError(f"no service for {', '.join(_IN_WORDS[name] for name in vacant)}: {advice}")
    from orchestrator.reference.agent import ReferenceAgent  # its packages are an extra

    agent = await stack.enter_async_context(
        ReferenceAgent(vacant, settings.content_dir, settings.recognizer, settings.voice)
    )
    clients = {"intent": HttpIntent, "answer": HttpAnswer, "tts": HttpTextToSpeech}
    for name in vacant:
        ports[name] = [agent.speech_to_text if name == "stt" else clients[name](http, agent.base_url)]


def _services(ports: Mapping[str, list[Any]], policy: Policy, health: Health) -> Services:
    """One port for each service. With several providers each has its part of the policy's deadline."""
    deadlines = policy.deadlines

    def filled(name: str, fallback: Callable[[Any], Any], within_ms: int, failures: int = 3) -> Any:
        several = ports[name]
        if len(several) == 1:
            return several[0]
        patience_s = within_ms / len(several) / 1000
        return fallback(Providers(_IN_WORDS[name], several, health, patience_s, failures))

    return Services(
        intent=filled("intent", FallbackIntent, deadlines.intent_ms),
        answer=filled("answer", FallbackAnswer, deadlines.answer_ms),
        text_to_speech=filled("tts", FallbackTextToSpeech, deadlines.tts_ms),
        speech_to_text=filled("stt", FallbackSpeechToText, _OPEN_MS, failures=1),
    )
