"""Speech ports from the user's own Python: functions that speak a text, and functions that write down a recording."""

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any, cast

from orchestrator.services.ports import (
    Recognizer,
    Request,
    ServiceError,
    SpeechChunk,
    SpeechToTextPort,
    TextToSpeechPort,
    Transcript,
)
from orchestrator.services.speech_wire import PcmCutter, WireError
from orchestrator.services.text_functions import Function, UserFunction, checked_function

_log = logging.getLogger(__name__)

_MAX_UTTERANCE_BYTES = 10 * 60 * 16_000 * 2
_END = object()


def text_to_speech_port(thing: object, *, sample_rate_hz: int = 22_050) -> TextToSpeechPort:
    """A TextToSpeechPort from an object with `synthesize`, or a function of the text.

    The function, sync or async, returns or yields bytes (mono s16le PCM at `sample_rate_hz`) or SpeechChunks.
    """
    if callable(getattr(thing, "synthesize", None)):
        return cast("TextToSpeechPort", thing)
    return _FunctionSpeech(checked_function(thing, "a text-to-speech service", "synthesize(request)"), sample_rate_hz)


def speech_to_text_port(thing: object) -> SpeechToTextPort:
    """A SpeechToTextPort from an object with `open`, or a function that writes down a whole utterance.

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
        PcmCutter(sample_rate_hz)  # a rate that cannot be right fails here, not in a call

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        """Bytes are cut into chunks of about 200 ms, chunks pass as they are. Raises ServiceError."""
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
            raise ServiceError(f"{self._function.name}: {error}") from error

    async def _pieces(self, request: Request) -> AsyncGenerator[Any, None]:
        function, argument = self._function, self._function.argument(request)
        if inspect.isasyncgenfunction(function.function):
            result: Any = function.function(argument)
        else:
            result = await function.call(argument)
        if isinstance(result, bytes | bytearray | memoryview | SpeechChunk):
            yield result
        elif hasattr(result, "__aiter__"):
            async with aclosing(_guarded(function, result)) as pieces:
                async for piece in pieces:
                    yield piece
        elif isinstance(result, Iterable) and not isinstance(result, str):
            async with aclosing(_threaded(function, iter(result))) as pieces:
                async for piece in pieces:
                    yield piece
        else:
            raise function.wrong_result(result, "bytes, SpeechChunk, or something that yields them")


async def _guarded(function: UserFunction, pieces: Any) -> AsyncGenerator[Any, None]:
    """The pieces of the user's async iterator, with its exceptions as ServiceError; closed when we are."""
    iterator = aiter(pieces)
    try:
        while (piece := await function.guard(anext(iterator, _END))) is not _END:
            yield piece
    finally:
        if hasattr(iterator, "aclose"):
            await iterator.aclose()


async def _threaded(function: UserFunction, iterator: Iterator[Any]) -> AsyncGenerator[Any, None]:
    """The pieces of the user's sync iterator, each taken in a thread; closed there too."""
    step: asyncio.Task[Any] | None = None
    try:
        while True:
            step = asyncio.create_task(function.in_thread(next, iterator, _END))
            # Shielded: a generator that is running cannot be closed, so the step is let run to its end.
            if (piece := await asyncio.shield(step)) is _END:
                return
            yield piece
    finally:
        if hasattr(iterator, "close"):
            _close_later(function, iterator.close, step)


_closing: set[asyncio.Task[None]] = set()


def _close_later(function: UserFunction, close: Callable[[], None], step: "asyncio.Task[Any] | None") -> None:
    """Close a sync generator in a thread after its running step, without keeping the caller waiting."""

    async def run() -> None:
        try:
            if step is not None:
                await asyncio.wait([step])
                if not step.cancelled():
                    step.exception()  # told already, or nobody is left to be told
            await function.in_thread(close)
        except ServiceError:
            _log.exception("closing the generator of %s failed", function.name)

    task = asyncio.get_running_loop().create_task(run())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


class _FunctionRecognition:
    """SpeechToTextPort by a function that is given whole utterances."""

    def __init__(self, function: Function) -> None:
        self._function = UserFunction(function)

    async def open(self, on_transcript: Callable[[Transcript], None], on_error: Callable[[str], None]) -> Recognizer:
        return _FunctionRecognizer(self._function, on_transcript, on_error)


class _FunctionRecognizer:
    """Collects an utterance and has it written down when it is finished."""

    def __init__(
        self, function: UserFunction, on_transcript: Callable[[Transcript], None], on_error: Callable[[str], None]
    ) -> None:
        self._function = function
        self._on_transcript = on_transcript
        self._on_error = on_error
        self._sound: bytearray | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.cancel()
        self._sound = bytearray()

    def feed(self, pcm: bytes) -> None:
        """Sound beyond ten minutes is dropped: an utterance that long is a microphone left open."""
        if self._sound is not None and len(self._sound) < _MAX_UTTERANCE_BYTES:
            self._sound += pcm

    def finish(self) -> None:
        sound, self._sound = self._sound, None
        if sound is not None:
            self._task = asyncio.get_running_loop().create_task(self._transcribe(bytes(sound)))

    def cancel(self) -> None:
        self._sound = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        self.cancel()

    async def _transcribe(self, pcm: bytes) -> None:
        began = time.perf_counter_ns()
        try:
            text = await self._function.call(pcm)
            if not isinstance(text, str):
                raise self._function.wrong_result(text, "a text")
        except ServiceError as error:
            self._on_error(str(error))
            return
        elapsed_us = (time.perf_counter_ns() - began) // 1000
        self._on_transcript(Transcript(text, is_final=True, elapsed_us=elapsed_us))
