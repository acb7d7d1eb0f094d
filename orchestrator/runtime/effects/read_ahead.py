"""Reads the speech of an answer ahead of its playback, so that one text follows another without a gap."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from orchestrator.runtime.effects.script import Script
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import SpeechChunk, has_words

AHEAD_US = 500_000
"""How far synthesis is read ahead, in microseconds of audio, beyond the half second that the playback queues. The next
text is synthesised when no more than this is left of the current text, so that little audio is made in vain."""
_CHUNKS_AHEAD = 200
_SHORTEST_MS = 5
"""Shortest allowed average chunk of a synthesiser, after the first 200. A tiny chunk costs as much as a long one."""

Synthesize = Callable[[int, str], AsyncGenerator[SpeechChunk, None]]
"""(number of a text, text) → its speech."""


async def read_ahead(script: Script, synthesize: Synthesize) -> AsyncGenerator[tuple[int, SpeechChunk], None]:
    """Yield the speech of all texts of a script in order, as (number of the text, chunk).

    Closing the generator ends the synthesis. Raises ServiceError if the synthesis fails, after all chunks before the
    failure were yielded.
    """
    queue = _Queue()
    reader = asyncio.create_task(_read(script, synthesize, queue), name="speech")
    reader.add_done_callback(lambda _: queue.close())
    try:
        while (item := await queue.take()) is not None:
            yield item
        reader.result()
    finally:
        reader.cancel()
        await asyncio.wait({reader})
        if not reader.cancelled():
            reader.exception()  # mark it as retrieved: it was raised above, or nobody waits for it any more


class _Queue:
    """A queue of audio chunks, bounded by the length of their audio (AHEAD_US)."""

    def __init__(self) -> None:
        self._chunks: asyncio.Queue[tuple[int, SpeechChunk] | None] = asyncio.Queue()
        self._length_us = 0
        self._room = asyncio.Event()

    async def put(self, index: int, chunk: SpeechChunk) -> None:
        """Add a chunk; returns when there is room for the next one."""
        self._length_us += chunk.duration_us
        self._chunks.put_nowait((index, chunk))
        while self._length_us >= AHEAD_US:
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        self._chunks.put_nowait(None)

    async def take(self) -> tuple[int, SpeechChunk] | None:
        if (item := await self._chunks.get()) is not None:
            self._length_us -= item[1].duration_us
            self._room.set()
        return item


async def _read(script: Script, synthesize: Synthesize, queue: _Queue) -> None:
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
                await queue.put(text[0], chunk)
                if received > 1:  # the first audio does not wait
                    await asyncio.sleep(0)  # a synthesiser with all chunks ready must not block other tasks
        if length_us - before_us < 1000 and has_words(text[1]):
            raise ServiceError(
                "text-to-speech gave no sound for an answer with words; does the voice know the language?"
            )
