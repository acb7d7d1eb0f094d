"""Speech-to-text and text-to-speech by OpenAI's HTTP interface, which many local servers have, too."""

import io
import wave
from collections.abc import AsyncGenerator, Callable
from typing import Any, Literal

import aiohttp

from orchestrator.adapters.openai_endpoint import OpenAIEndpoint
from orchestrator.services.http_clients import read_bounded, read_json
from orchestrator.services.ports import NO_SPEAKER, Recognizer, Request, Speaker, SpeechChunk, Transcript, has_words
from orchestrator.services.speech_functions import speech_to_text_port
from orchestrator.services.speech_wire import PcmCutter, WavCutter, WireError

_WAV_BEGINS = b"RIFF"


class OpenAITextToSpeech(OpenAIEndpoint):
    """TextToSpeechPort over `POST /audio/speech`: raw PCM or WAV, played from the first bytes on. No word times.

    ```python
    Orchestrator(text_to_speech=OpenAITextToSpeech(voice="alloy", base_url="http://localhost:8880/v1"))
    ```

    An empty `base_url` or `api_key` is read from OPENAI_BASE_URL and OPENAI_API_KEY. `sample_rate_hz` is that of raw
    PCM. `timeout_ms` bounds each wait for the next bytes.
    """

    def __init__(
        self,
        model: str = "gpt-4o-mini-tts",
        voice: str = "alloy",
        *,
        base_url: str = "",
        api_key: str = "",
        audio_format: Literal["pcm", "wav"] = "pcm",
        sample_rate_hz: int = 24_000,
        timeout_ms: int = 10_000,
    ) -> None:
        super().__init__("/audio/speech", base_url, api_key, timeout_ms=timeout_ms, bounds_whole=False)
        self._asked = {"model": model, "voice": voice, "response_format": audio_format}
        self._sample_rate_hz = sample_rate_hz

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        """Chunks of about 200 ms as they arrive. Raises ServiceError; closing the generator closes the request."""
        endpoint, is_silent, cutter = self.endpoint, True, _Cutter(self._sample_rate_hz)
        body = {"json": {**self._asked, "input": request.text}}
        try:
            async with endpoint.send(lambda: body, is_repeatable=True) as response:
                if response.status != 200:
                    raise await endpoint.refused(response)
                if response.content_type.lower() in ("audio/mpeg", "audio/mp3", "audio/ogg", "application/json"):
                    raise endpoint.error(f"it sends {response.content_type}; it must know response_format pcm or wav")
                async for data in response.content.iter_any():
                    for chunk in cutter.feed(data):
                        is_silent = False
                        yield chunk
            for chunk in cutter.end():
                is_silent = False
                yield chunk
        except WireError as error:
            raise endpoint.error(f"unreadable speech: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise endpoint.lost(error) from error
        if is_silent and has_words(request.text):
            raise endpoint.error("no sound for an answer with words; does the voice know the language?")


class _Cutter:
    """Cuts raw PCM, or the WAV file that some servers send in its place."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._raw = PcmCutter(sample_rate_hz)
        self._cutter: PcmCutter | WavCutter | None = None
        self._begin = b""

    def feed(self, data: bytes) -> list[SpeechChunk]:
        if self._cutter is None:
            self._begin += data
            if len(self._begin) < len(_WAV_BEGINS):
                return []
            self._cutter = WavCutter() if self._begin.startswith(_WAV_BEGINS) else self._raw
            data = self._begin
        return list(self._cutter.feed(data))

    def end(self) -> list[SpeechChunk]:
        if self._cutter is None:
            return [*self._raw.feed(self._begin), *self._raw.end()]
        return list(self._cutter.end())


class OpenAISpeechToText(OpenAIEndpoint):
    """SpeechToTextPort over `POST /audio/transcriptions`: whole utterances, so there are no partials.

    ```python
    Orchestrator(speech_to_text=OpenAISpeechToText(language="de", base_url="http://localhost:8000/v1"))
    ```

    An empty `base_url` or `api_key` is read from OPENAI_BASE_URL and OPENAI_API_KEY, an empty `language` from
    ORCH_LANGUAGE. `prompt` holds words to expect. `timeout_ms` bounds a transcription; after 5 s orch gives up anyway.
    """

    def __init__(
        self,
        model: str = "gpt-4o-mini-transcribe",
        *,
        language: str = "",
        prompt: str = "",
        base_url: str = "",
        api_key: str = "",
        timeout_ms: int = 5_000,
    ) -> None:
        super().__init__("/audio/transcriptions", base_url, api_key, timeout_ms=timeout_ms, bounds_whole=True)
        self._asked = {"model": model, "response_format": "json", "prompt": prompt}
        self._language = language

    async def open(
        self,
        on_transcript: Callable[[Transcript], None],
        on_error: Callable[[str], None],
        speaker: Speaker = NO_SPEAKER,
    ) -> Recognizer:
        language = self._language or speaker.language.partition("-")[0].lower()  # ISO 639-1

        async def transcribe(pcm: bytes) -> str:
            return await self._transcribe(pcm, language)

        return await speech_to_text_port(transcribe).open(on_transcript, on_error, speaker)

    async def _transcribe(self, pcm: bytes, language: str) -> str:
        endpoint = self.endpoint
        sound = _wav(pcm)

        def body() -> dict[str, Any]:
            form = aiohttp.FormData()
            form.add_field("file", sound, filename="speech.wav", content_type="audio/wav")
            for name, value in {**self._asked, "language": language}.items():
                if value:
                    form.add_field(name, value)
            return {"data": form}

        try:
            async with endpoint.send(body, is_repeatable=True) as response:
                if response.status != 200:
                    raise await endpoint.refused(response)
                answer = read_json(endpoint, await read_bounded(response))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise endpoint.lost(error) from error
        text = answer.get("text")
        if not isinstance(text, str):
            raise endpoint.error("the answer has no text 'text'", f"it has {sorted(answer)[:10]}"[:200])
        return text.strip()


def _wav(pcm: bytes) -> bytes:
    """A WAV file of 16 kHz mono s16le sound."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16_000, 0, "NONE", "not compressed"))
        writer.writeframes(pcm)
    return file.getvalue()
