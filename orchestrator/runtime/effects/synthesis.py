"""Synthesises the texts of an answer, one after another, as fast as the playback takes the speech."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from orchestrator.runtime.effects.script import Script
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import SHORTEST_SOUND_US, SpeechChunk, has_words

_CHUNKS_AHEAD = 200
_SHORTEST_MS = 5
"""Limit on the chunks of one playback: _CHUNKS_AHEAD, and one more for each _SHORTEST_MS ms of their speech. More
chunks raise a ServiceError, because a tiny chunk costs as much work as a long chunk.
"""

Synthesize = Callable[[int, str], AsyncGenerator[SpeechChunk, None]]
"""A function: (number of a text, text) → the chunks of its speech."""


async def speech_of(script: Script, synthesize: Synthesize) -> AsyncGenerator[tuple[int, SpeechChunk], None]:
    """Yield the speech of all texts of a script in order, as (number of the text, chunk). Raises ServiceError if the
    synthesis fails, if its chunks are too short (_SHORTEST_MS), or if it makes no sound for a text with words.

    The synthesis of a text begins when the caller has taken all chunks of the previous text. Closing the generator ends
    the synthesis.
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
                if received > 1:  # not after the first chunk: speech must begin as early as possible
                    await asyncio.sleep(0)  # a synthesiser with all chunks ready must not block other tasks
        if length_us - before_us < SHORTEST_SOUND_US and has_words(text[1]):
            raise ServiceError(
                "text-to-speech gave no sound for an answer with words; does the voice know the language?"
            )
