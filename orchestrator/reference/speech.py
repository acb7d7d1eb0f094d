"""Text-to-speech by espeak-ng as a TextToSpeechPort: chunks with the words that begin in them."""

import asyncio
import re
import threading
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor

from orchestrator.reference.espeak import Engine, WordEvent, engine
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Request, SpeechChunk, SpokenWord
from orchestrator.services.speech_wire import CHUNK_MS

_MAX_TEXT_CHARACTERS = 8_000
_TOKEN = re.compile(r"\S+")

# One thread: the engine speaks one text at a time anyway (about a thousand times faster than real time).
_executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak")


class EspeakSpeech:
    """TextToSpeechPort by espeak-ng, in a thread. `voice` is one of espeak's, `rate_wpm` words per minute."""

    def __init__(self, *, voice: str = "en-us", rate_wpm: int = 165) -> None:
        self._voice = voice
        self._rate_wpm = rate_wpm

    async def start(self) -> None:
        """Load the engine now rather than in the first answer. Raises ServiceError when it is not installed."""
        await asyncio.get_running_loop().run_in_executor(_executor, self._check)

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        """Raises ServiceError. Closing the iterator ends the synthesis within a chunk."""
        if len(request.text) > _MAX_TEXT_CHARACTERS:
            raise ServiceError(f"a text of {len(request.text)} characters; at most {_MAX_TEXT_CHARACTERS} are spoken")
        synthesis = _Synthesis(request.text, asyncio.get_running_loop())
        work = asyncio.get_running_loop().run_in_executor(_executor, synthesis.run, self._voice, self._rate_wpm)
        # The sentinel comes when the thread is done, however that ended.
        work.add_done_callback(lambda _: synthesis.chunks.put_nowait(None))
        try:
            while (chunk := await synthesis.chunks.get()) is not None:
                yield chunk
            await work
        finally:
            synthesis.abort.set()
            if not work.done():
                work.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _check(self) -> None:
        engine().check(self._voice, self._rate_wpm)


class _Synthesis:
    """One text on its way through the engine: runs in the executor's thread, hands chunks to the loop."""

    def __init__(self, text: str, loop: asyncio.AbstractEventLoop) -> None:
        self.chunks: asyncio.Queue[SpeechChunk | None] = asyncio.Queue()
        self.abort = threading.Event()
        self._text = text
        self._loop = loop
        self._pending = bytearray()
        self._handed_over_bytes = 0
        self._words: deque[WordEvent] = deque()
        self._unspoken = deque(_TOKEN.finditer(text))

    def run(self, voice: str, rate_wpm: int) -> None:
        if self.abort.is_set():
            return
        loaded = engine()
        loaded.speak(self._text, voice, rate_wpm, lambda pcm, words: self._take(loaded, pcm, words))
        self._hand_over(loaded, len(self._pending))

    def _take(self, loaded: Engine, pcm: bytes, words: list[WordEvent]) -> bool:
        self._pending += pcm
        self._words += words
        chunk_bytes = loaded.sample_rate_hz * CHUNK_MS // 1000 * 2
        while len(self._pending) >= chunk_bytes and not self.abort.is_set():
            self._hand_over(loaded, chunk_bytes)
        return not self.abort.is_set()

    def _hand_over(self, loaded: Engine, size_bytes: int) -> None:
        if not size_bytes or self.abort.is_set():
            return
        pcm = bytes(self._pending[:size_bytes])
        del self._pending[:size_bytes]
        self._handed_over_bytes += size_bytes
        end_ms = self._handed_over_bytes * 1000 // (2 * loaded.sample_rate_hz)
        # The engine tells of the last word's end with its last sound: nothing may be held back then.
        words = self._spoken(end_ms if self._pending else None)
        chunk = SpeechChunk(pcm, loaded.sample_rate_hz, tuple(words))
        try:
            self._loop.call_soon_threadsafe(self.chunks.put_nowait, chunk)
        except RuntimeError:  # the loop was closed: nobody listens
            self.abort.set()

    def _spoken(self, before_ms: int | None) -> Iterator[SpokenWord]:
        """The words that began before this time, each once, as they stand in the text (with their punctuation).

        The engine runs small words together with the next ("in the morning"): those begin where it does.
        "drop-in" and "8:30" are several words to it and one to a reader.
        """
        while self._words and (before_ms is None or self._words[0].at_ms < before_ms):
            event = self._words.popleft()
            while self._unspoken and self._unspoken[0].start() <= event.position:
                yield SpokenWord(self._unspoken.popleft()[0], event.at_ms)
