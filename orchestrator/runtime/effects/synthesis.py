"""Synthesises the texts of an answer, one after another, as fast as its playback takes them."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from orchestrator.runtime.effects.script import Script
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import SpeechChunk, has_words

_CHUNKS_AHEAD = 200
_SHORTEST_MS = 5
"""Shortest allowed average chunk of a synthesiser, after the first 200. A tiny chunk costs as much as a long one."""

Synthesize = Callable[[int, str], AsyncGenerator[SpeechChunk, None]]
"""(number of a text, text) → its speech."""


async def speech_of(script: Script, synthesize: Synthesize) -> AsyncGenerator[tuple[int, SpeechChunk], None]:
    """Yield the speech of all texts of a script in order, as (number of the text, chunk). Raises ServiceError.

    The next text is synthesised when the last chunk of the one before has been taken. Closing the generator ends the
    synthesis.
    """
    received = length_us = 0
    while (text := await script.next()) is not None:
        script.take()
        before_us = length_us
        async with aclosing(synthesize(*text)) as chunks:
            async for chunk in chunks:
                received += 1
                length_us += chunk.duration_us
                if received > _CHUNKS_AHEAD + length_us // (1000 * _SHORTEST_MS):
                    raise ServiceError(f"text-to-speech sent {received} chunks for {length_us // 1000} ms of speech")
                yield text[0], chunk
                if received > 1:  # the first audio does not wait
                    await asyncio.sleep(0)  # a synthesiser with all chunks ready must not block other tasks
        if length_us - before_us < 1000 and has_words(text[1]):
            raise ServiceError(
                "text-to-speech gave no sound for an answer with words; does the voice know the language?"
            )
