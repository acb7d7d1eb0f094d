"""Text-to-speech by the natural voice as a TextToSpeechPort: sentence by sentence, in chunks."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from orchestrator.reference.hibari_voice import SAMPLE_RATE_HZ, HibariVoice, SpokenSentence
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Request, SpeechChunk, SpokenWord
from orchestrator.services.speech_wire import CHUNK_MS

_MAX_TEXT_CHARACTERS = 8_000
_KEPT_BYTES = 16 * 1024 * 1024
"""Five minutes of speech: greetings, fillers and other sentences that repeat."""
_BYTES_PER_MS = 2 * SAMPLE_RATE_HZ // 1000

# One thread: a sentence takes a tenth of a second, and callers take turns sentence by sentence.
_executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="voice")
_kept: OrderedDict[str, SpokenSentence] = OrderedDict()


class NaturalSpeech:
    """TextToSpeechPort by hibari-tts, in a thread. English."""

    async def start(self) -> None:
        """Load the voice now rather than in the first answer. Raises ServiceError when it is missing or altered."""
        await asyncio.get_running_loop().run_in_executor(_executor, _say, "Hello.")

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        """Raises ServiceError. Closing the iterator ends the synthesis after the sentence at hand."""
        if len(request.text) > _MAX_TEXT_CHARACTERS:
            raise ServiceError(f"a text of {len(request.text)} characters; at most {_MAX_TEXT_CHARACTERS} are spoken")
        loop = asyncio.get_running_loop()
        before_ms = 0
        for sentence in await loop.run_in_executor(_executor, _sentences, request.text):
            said = await loop.run_in_executor(_executor, _say, sentence)
            for chunk in _chunks(said, before_ms):
                yield chunk
            before_ms += len(said.pcm) // _BYTES_PER_MS


@cache
def _voice() -> HibariVoice:
    return HibariVoice()


def _sentences(text: str) -> list[str]:
    # The voice knows no control characters and no lone surrogates.
    return list(_voice().sentences("".join(one if one.isprintable() else " " for one in text)))


def _say(sentence: str) -> SpokenSentence:
    """A sentence, from memory if it was said lately."""
    if sentence in _kept:
        _kept.move_to_end(sentence)
        return _kept[sentence]
    said = _kept[sentence] = _voice().say(sentence)
    while sum(len(one.pcm) for one in _kept.values()) > _KEPT_BYTES:
        _kept.popitem(last=False)
    return said


def _chunks(said: SpokenSentence, before_ms: int) -> Iterator[SpeechChunk]:
    """Chunks with the words that begin in them; times count from the start of the whole text."""
    size = CHUNK_MS * _BYTES_PER_MS
    for at in range(0, len(said.pcm), size):
        begin_ms, is_last = at // _BYTES_PER_MS, at + size >= len(said.pcm)
        words = (
            SpokenWord(word, before_ms + ms)
            for word, ms in said.words
            if begin_ms <= ms and (is_last or ms < begin_ms + CHUNK_MS)
        )
        yield SpeechChunk(said.pcm[at : at + size], SAMPLE_RATE_HZ, tuple(words))
