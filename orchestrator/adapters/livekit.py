"""Any LiveKit Agents plugin for speech-to-text or text-to-speech as a port, outside of LiveKit's rooms and jobs.

The extra `livekit` brings livekit-agents; each plugin is a package of its own. A mandatory part of livekit-agents,
livekit-local-inference, holds models under a licence of LiveKit's: orch uses none of them.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from livekit import rtc
from livekit.agents import stt, utils
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT, APIConnectOptions

from orchestrator.safe_text import named_error
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import (
    NO_SPEAKER,
    Recognizer,
    Request,
    Speaker,
    SpeechChunk,
    SpokenWord,
    Transcript,
    has_words,
)
from orchestrator.services.speech_functions import speech_to_text_port

_RATE_HZ = 16_000
_BYTES_PER_SAMPLE = 2
_TAIL_S = 0.1
"""Quiet time after a final that ends an utterance: of two finals, the second follows within a round trip."""
_ROUNDING_S = 0.01
_LATEST_S = 10.0
_ONCE = APIConnectOptions(max_retry=0)
"""No retries: the plugin's own take longer than the deadlines of a turn, which has other providers."""
_FINAL = stt.SpeechEventType.FINAL_TRANSCRIPT
_EAGER = stt.SpeechEventType.PREFLIGHT_TRANSCRIPT
_INTERIM = (stt.SpeechEventType.INTERIM_TRANSCRIPT, _EAGER)


class _Plugin:
    """A plugin with the HTTP connections that it finds within a job of LiveKit's."""

    def __init__(self, plugin: Any) -> None:
        self.plugin = plugin
        self.name = str(plugin.label)
        self._stack = AsyncExitStack()
        self._context = copy_context()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(utils.http_context.open())
        self._stack.push_async_callback(self.plugin.aclose)
        self._context = copy_context()  # plugins look for their connections in it
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def context(self) -> Context:
        """A copy: a context cannot be entered twice at a time."""
        return self._context.copy()

    def failed(self, error: Exception) -> ServiceError:
        ours = f"{self.name} failed: {type(error).__name__}"
        return ServiceError(f"{self.name} failed: {named_error(error)}", in_our_words=ours)


class LiveKitTextToSpeech(_Plugin):
    """TextToSpeechPort by a LiveKit plugin. Word times are the plugin's, where it has any.

    ```python
    Orchestrator(text_to_speech=elevenlabs.TTS())  # the same as LiveKitTextToSpeech(elevenlabs.TTS())
    ```
    """

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        """The chunks as they come; a stream for each text. A text without a letter or a digit has none: plugins take
        its silence for a failure. Raises ServiceError; closing the generator ends the stream.
        """
        if not has_words(request.text):
            return
        try:
            stream = self.context.run(self._stream, request.text)
            try:
                async for audio in stream:
                    yield _chunk(audio.frame)
            finally:
                await stream.aclose()
        except ServiceError:
            raise
        except Exception as error:
            raise self.failed(error) from error

    def _stream(self, text: str) -> Any:
        if not self.plugin.capabilities.streaming:
            return self.plugin.synthesize(text, conn_options=_ONCE)
        stream = self.plugin.stream(conn_options=_ONCE)
        stream.push_text(text)
        stream.end_input()
        return stream


def _chunk(frame: Any) -> SpeechChunk:
    if frame.num_channels != 1:
        raise ServiceError(f"speech of {frame.num_channels} channels; choose a voice or format of one")
    timed = frame.userdata.get(USERDATA_TIMED_TRANSCRIPT) or ()
    words = tuple(
        SpokenWord(text, round(word.start_time * 1000))
        for word in timed
        if (text := str(word).strip()) and utils.is_given(word.start_time)
    )
    return SpeechChunk(bytes(frame.data), frame.sample_rate, words)


class LiveKitSpeechToText(_Plugin):
    """SpeechToTextPort by a LiveKit plugin; one without streaming is asked about each whole utterance.

    ```python
    Orchestrator(speech_to_text=deepgram.STT())  # the same as LiveKitSpeechToText(deepgram.STT())
    ```

    `settle_ms`: wait for a final after the end of an utterance. Then the words so far are the final: many vendors send
    none when nothing is left to transcribe.
    """

    def __init__(self, plugin: Any, *, settle_ms: int = 400) -> None:
        super().__init__(plugin)
        self._settle_s = settle_ms / 1000

    async def open(
        self,
        on_transcript: Callable[[Transcript], None],
        on_error: Callable[[str], None],
        speaker: Speaker = NO_SPEAKER,
    ) -> Recognizer:
        """A recogniser: one stream of the plugin's for a microphone. Raises ServiceError."""
        language = {"language": speaker.language} if speaker.language else {}

        async def transcribe(pcm: bytes) -> str:
            try:
                asked = self.plugin.recognize(_frame(pcm), conn_options=_ONCE, **language)
                event = await asyncio.create_task(asked, context=self.context)
            except Exception as error:
                raise self.failed(error) from error
            return _words(event)

        if not self.plugin.capabilities.streaming:
            return await speech_to_text_port(transcribe).open(on_transcript, on_error, speaker)
        try:
            stream = self.context.run(lambda: self.plugin.stream(conn_options=_ONCE, **language))
        except Exception as error:
            raise self.failed(error) from error
        settles_at_once = bool(getattr(self.plugin.capabilities, "manual_flush", False))
        return _StreamRecognizer(self, stream, self._settle_s, settles_at_once, on_transcript, on_error)


@dataclass
class _Utterance:
    """What the plugin has understood of one utterance, which began `began_s` after the beginning of the stream."""

    began_s: float
    finals: list[str] = field(default_factory=list)
    interim: str = ""
    """Words that no final has confirmed."""
    finished_ns: int = 0
    """When it was finished; 0: it is open."""
    is_confirmed: bool = False
    """Whether a final has come since then."""

    def follows(self, end_s: float) -> bool:
        """Whether words that end at this time of the stream were said before this utterance. False if the plugin does
        not say when (0), or so early that its times must count from elsewhere, such as a new connection.
        """
        return max(0.0, self.began_s - _LATEST_S) < end_s <= self.began_s + _ROUNDING_S

    def take(self, event: Any) -> None:
        if event.type == _FINAL:
            self.finals.append(_words(event))
            self.interim, self.is_confirmed = "", self.finished_ns > 0
        elif event.type in _INTERIM:
            self.interim = _words(event)

    def transcript(self, *, is_complete: bool = False) -> Transcript:
        text = " ".join(words for words in [*self.finals, self.interim] if words)
        if not self.finished_ns:
            return Transcript(text, is_final=False, is_complete=is_complete)
        elapsed_us = (time.perf_counter_ns() - self.finished_ns) // 1000
        return Transcript(text, is_final=True, elapsed_us=elapsed_us)


class _StreamRecognizer:
    """Recogniser over one stream. Events name no utterance: each is counted to one by its time in the stream. An event
    of a plugin that gives no times belongs to the open utterance; if none is open, to the finished utterance.
    """

    def __init__(
        self,
        port: LiveKitSpeechToText,
        stream: Any,
        settle_s: float,
        settles_at_once: bool,
        on_transcript: Callable[[Transcript], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._port = port
        self._stream = stream
        self._settle_s = settle_s
        self._settles_at_once = settles_at_once
        """Whether exactly one final follows a flush."""
        self._on_transcript = on_transcript
        self._on_error = on_error
        self._is_broken = False
        self._fed_bytes = 0
        """Sound given to the stream."""
        self._has_times = False
        """Whether the plugin's events say to which time of the stream they belong."""
        self._open: _Utterance | None = None
        self._due: _Utterance | None = None
        """The finished utterance whose final is due."""
        self._settling: asyncio.TimerHandle | None = None
        self._reading = asyncio.create_task(self._read())

    def start(self) -> None:
        if not self._has_times:  # what comes from now on is counted to the new utterance
            self._settle()
        if not self._is_broken:
            self._open = _Utterance(self._fed_bytes / _BYTES_PER_SAMPLE / _RATE_HZ)

    def feed(self, pcm: bytes) -> None:
        if self._open is not None:
            self._fed_bytes += len(pcm)
            self._stream.push_frame(_frame(pcm))

    def finish(self) -> None:
        if self._open is not None:
            self._settle()
            self._due, self._open = self._open, None
            self._due.finished_ns = time.perf_counter_ns()
            self._stream.flush()
            self._settle_after(self._settle_s)

    def cancel(self) -> None:
        """Drop the open utterance; without one, drop the pending final."""
        if self._open is not None:
            self._stream.flush()  # its words come before those of the next utterance
            self._open = None
        else:
            self._forget()

    async def close(self) -> None:
        self._open = None
        self._forget()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._stream.aclose()

    def _forget(self) -> None:
        self._due = None
        if self._settling is not None:
            self._settling.cancel()

    def _settle_after(self, seconds: float) -> None:
        if self._settling is not None:
            self._settling.cancel()
        self._settling = asyncio.get_running_loop().call_later(seconds, self._settle)

    def _settle(self) -> None:
        """Give the final that is due: the words so far."""
        if (due := self._due) is not None:
            self._forget()
            self._on_transcript(due.transcript())

    async def _read(self) -> None:
        try:
            async for event in self._stream:
                self._take(event)
        except Exception as error:  # noqa: BLE001 - of any kind: this recogniser is broken
            self._break(f"failed: {type(error).__name__}")
        else:
            self._break("ended its stream")

    def _break(self, problem: str) -> None:
        self._is_broken, self._open = True, None
        self._forget()
        self._on_error(f"{self._port.name} {problem}")

    def _take(self, event: Any) -> None:
        if event.type not in (_FINAL, *_INTERIM, stt.SpeechEventType.END_OF_SPEECH):
            return
        end_s = event.alternatives[0].end_time if event.alternatives else 0.0
        end_s -= self._stream.start_time_offset  # plugins add how long it took to begin, also to no time at all
        self._has_times |= end_s > _ROUNDING_S
        if self._open is not None and not self._open.follows(end_s):
            self._open.take(event)
            self._on_transcript(self._open.transcript(is_complete=event.type == _EAGER))
        elif self._due is not None and not self._due.follows(end_s):
            self._due.take(event)
            if event.type == _FINAL:
                self._settle_after(0 if self._settles_at_once else _TAIL_S)
            elif event.type == stt.SpeechEventType.END_OF_SPEECH and self._due.is_confirmed:
                self._settle()


def _frame(pcm: bytes) -> Any:
    return rtc.AudioFrame(pcm, _RATE_HZ, 1, len(pcm) // _BYTES_PER_SAMPLE)


def _words(event: Any) -> str:
    return str(event.alternatives[0].text).strip() if event.alternatives else ""
