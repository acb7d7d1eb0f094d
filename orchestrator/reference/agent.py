"""Starts the reference services for the ports that have no service of the user's: `ReferenceAgent`."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.reference.answers import FolderAnswers
from orchestrator.reference.content import Content, load_content
from orchestrator.reference.moonshine_recognition import MoonshineRecognition
from orchestrator.reference.recognition import ProcessRecognition
from orchestrator.reference.server import ReferenceServer
from orchestrator.reference.sphinx import SphinxRecognition
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Request, SpeechChunk, TextToSpeechPort
from orchestrator.settings import Recognition, Voice


class ReferenceAgent:
    """The reference services for these ports ("intent", "answer", "tts", "stt"), within `async with`.

    Raises ServiceError when the content cannot be read, or when a service does not start.
    """

    def __init__(self, ports: Collection[str], content_dir: Path | None, recognizer: Recognition, voice: Voice) -> None:
        self._ports = frozenset(ports)
        self._content_dir = content_dir
        self._recognizer = recognizer
        self._voice: Voice = voice
        self._stack = AsyncExitStack()
        self.base_url = ""
        """Where POST /intent, /query and /stream are served, if one of their ports is among `ports`."""
        self.speech_to_text: ProcessRecognition | None = None
        """None if "stt" is not among `ports`."""

    async def __aenter__(self) -> Self:
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
        content = await asyncio.to_thread(load_content, self._content_dir)
        starting = [self._start_recognition(content)] if "stt" in self._ports else []
        if self._ports - {"stt"}:
            starting.append(self._start_server(content))
        # Both at once: each loads models for half a second, one of them in another process.
        for done in await asyncio.gather(*starting, return_exceptions=True):
            if isinstance(done, BaseException):
                raise done

    async def _start_server(self, content: Content) -> None:
        speech = await _speech(self._voice) if "tts" in self._ports else _NoSpeech()
        answers = FolderAnswers(content)
        self._stack.callback(answers.close)
        server = ReferenceServer(answers.intents, answers, speech)
        await self._stack.enter_async_context(server)
        self.base_url = server.base_url

    async def _start_recognition(self, content: Content) -> None:
        recognition = _recognition(self._recognizer, content.phrases())
        self.speech_to_text = await self._stack.enter_async_context(recognition)


async def _speech(voice: Voice) -> TextToSpeechPort:
    """The started voice. Its packages are imported here: each voice is an extra of its own."""
    if voice == "espeak":
        from orchestrator.reference.speech import EspeakSpeech

        espeak = EspeakSpeech()
        await espeak.start()
        return espeak
    from orchestrator.reference.natural_speech import NaturalSpeech

    natural = NaturalSpeech()
    await natural.start()
    return natural


class _NoSpeech:
    """Stands in the server where the user has text-to-speech of their own."""

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        raise ServiceError(f"turn {request.turn}: this service has text-to-speech of its own")
        yield


def _recognition(recognizer: Recognition, phrases: Iterable[str]) -> ProcessRecognition:
    if recognizer == "open":
        return MoonshineRecognition(phrases)
    return SphinxRecognition(phrases, mode=recognizer)
