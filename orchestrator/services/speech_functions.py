"""Makes speech ports from the user's Python functions: text-to-speech from a text, speech-to-text from a recording."""

import asyncio
import inspect
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any, cast

from orchestrator.safe_text import safe_error
from orchestrator.services.failures import ServiceError
from orchestrator.services.generators import guarded, threaded
from orchestrator.services.ports import (
    NO_SPEAKER,
    Recognizer,
    Request,
    Speaker,
    SpeechChunk,
    SpeechToTextPort,
    TextToSpeechPort,
    Transcript,
    has_words,
)
from orchestrator.services.speech_wire import PcmCutter, WireError
from orchestrator.services.user_functions import Function, UserFunction, checked_function

_MAX_UTTERANCE_BYTES = 10 * 60 * 16_000 * 2


def text_to_speech_port(thing: object, *, sample_rate_hz: int = 22_050) -> TextToSpeechPort:
    """A TextToSpeechPort from an object with `synthesize`, or a function of the text.

    The function, sync or async, returns or yields bytes (mono s16le PCM at `sample_rate_hz`) or SpeechChunks.
    """
    if callable(getattr(thing, "synthesize", None)):
        return cast("TextToSpeechPort", thing)
    return _FunctionSpeech(checked_function(thing, "a text-to-speech service", "synthesize(request)"), sample_rate_hz)


def speech_to_text_port(thing: object) -> SpeechToTextPort:
    """A SpeechToTextPort from an object with `open`, or a function that transcribes a whole utterance.

    The function, sync or async, takes bytes (16 kHz mono s16le PCM) and returns the text. There are no partials.
    """
    if callable(getattr(thing, "open", None)):
        return cast("SpeechToTextPort", thing)
    method = "open(on_transcript, on_error)"
    return _FunctionRecognition(checked_function(thing, "a speech-to-text service", method))


class _FunctionSpeech:
    """TextToSpeechPort by a user's function."""

    def __init__(self, function: Function, sample_rate_hz: int) -> None:
        self._function = UserFunction(function)
        self._sample_rate_hz = sample_rate_hz
        PcmCutter(sample_rate_hz)  # a bad sample rate fails here, not during a call

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        """Cut bytes into chunks of about 200 ms; pass SpeechChunks unchanged. Raises ServiceError."""
        cutter = PcmCutter(self._sample_rate_hz)
        try:
            async with aclosing(self._pieces(request)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, SpeechChunk):
                        yield piece
                    elif isinstance(piece, bytes | bytearray | memoryview):
                        for chunk in cutter.feed(bytes(piece)):
                            yield chunk
                    else:
                        raise self._function.wrong_result(piece, "bytes or SpeechChunk")
            for chunk in cutter.end():
                yield chunk
        except WireError as error:
            raise ServiceError(
                f"{self._function.name}: {error}", in_our_words=f"{self._function.name}: {error}"
            ) from error

    async def _pieces(self, request: Request) -> AsyncGenerator[Any, None]:
        function, argument = self._function, self._function.argument(request)
        if inspect.isasyncgenfunction(function.function):
            result: Any = function.function(argument)
        else:
            result = await function.call(argument)
        if result is None and not has_words(request.text):
            return
        if isinstance(result, bytes | bytearray | memoryview | SpeechChunk):
            yield result
        elif hasattr(result, "__aiter__"):
            async with aclosing(guarded(function, result)) as pieces:
                async for piece in pieces:
                    yield piece
        elif isinstance(result, Iterable) and not isinstance(result, str):
            async with aclosing(threaded(function, iter(result))) as pieces:
                async for piece in pieces:
                    yield piece
        else:
            raise function.wrong_result(result, "bytes, SpeechChunk, or something that yields them")


class _FunctionRecognition:
    """SpeechToTextPort by a user's function that takes whole utterances."""

    def __init__(self, function: Function) -> None:
        self._function = UserFunction(function)

    async def open(
        self,
        on_transcript: Callable[[Transcript], None],
        on_error: Callable[[str], None],
        speaker: Speaker = NO_SPEAKER,  # noqa: ARG002 - the function gets the sound alone
    ) -> Recognizer:
        return _FunctionRecognizer(self._function, on_transcript, on_error)


class _FunctionRecognizer:
    """Collects utterances and transcribes each when it is finished, in the order of speech."""

    def __init__(
        self, function: UserFunction, on_transcript: Callable[[Transcript], None], on_error: Callable[[str], None]
    ) -> None:
        self._function = function
        self._on_transcript = on_transcript
        self._on_error = on_error
        self._sound: bytearray | None = None
        self._finished: deque[asyncio.Task[None]] = deque()
        """Transcriptions, running and waiting, in the order of speech."""

    def start(self) -> None:
        self._sound = bytearray()

    def feed(self, pcm: bytes) -> None:
        """Add sound. Drops sound beyond ten minutes: such an utterance means a microphone left open."""
        if self._sound is not None and len(self._sound) < _MAX_UTTERANCE_BYTES:
            self._sound += pcm

    def finish(self) -> None:
        sound, self._sound = self._sound, None
        if sound is not None:
            before = self._finished[-1] if self._finished else None
            task = asyncio.get_running_loop().create_task(self._transcribe(bytes(sound), before))
            self._finished.append(task)
            task.add_done_callback(self._finished.remove)

    def cancel(self) -> None:
        """Drop the open utterance; without one, drop the pending finals."""
        if self._sound is None:
            for task in self._finished:
                task.cancel()
        self._sound = None

    async def close(self) -> None:
        self._sound = None
        self.cancel()

    async def _transcribe(self, pcm: bytes, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        began = time.perf_counter_ns()
        try:
            text = await self._function.call(pcm)
            if not isinstance(text, str):
                raise self._function.wrong_result(text, "a text")
        except ServiceError as error:
            self._on_error(safe_error(error, mask=True))  # it is logged, and may repeat the user's words
            return
        elapsed_us = (time.perf_counter_ns() - began) // 1000
        self._on_transcript(Transcript(text, is_final=True, elapsed_us=elapsed_us))
