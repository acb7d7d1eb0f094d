"""Text-to-speech port over HTTP: POST /stream, played from the first bytes on (contract in docs/services.md)."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from email.message import Message

import aiohttp

from orchestrator.services.failures import ServiceError
from orchestrator.services.http_clients import NO_HEADERS, Endpoint, read_lines
from orchestrator.services.ports import Request, SpeechChunk, has_words
from orchestrator.services.speech_wire import (
    ACCEPT,
    JSON_LINES,
    RAW_TYPES,
    SAMPLE_RATE_HEADER,
    WAV_TYPES,
    PcmCutter,
    WavCutter,
    WireError,
    decode_line,
)

_MAX_SPEECH_MS = 30 * 60 * 1000


class HttpTextToSpeech:
    """TextToSpeechPort over `POST /stream {text}`.

    Takes JSON lines (with word timings), raw mono s16le PCM or WAV, whichever the service has. `timeout_ms` bounds
    each wait for the next bytes, not the whole: speech may be as long as it is.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        timeout_ms: int = 10_000,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        self._endpoint = Endpoint(session, url, "/stream", timeout_ms=timeout_ms, bounds_whole=False, headers=headers)

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        """Chunks of about 200 ms as they arrive. Raises ServiceError; closing the iterator closes the request."""
        endpoint, spoken_ms = self._endpoint, 0
        try:
            async with endpoint.post(request, {"Accept": ACCEPT}) as response:
                if response.status != 200:
                    raise await endpoint.refused(response)
                async with aclosing(_chunks(endpoint, response)) as chunks:
                    async for chunk in chunks:
                        spoken_ms += chunk.duration_ms
                        if spoken_ms > _MAX_SPEECH_MS:
                            raise endpoint.error(f"more than {_MAX_SPEECH_MS // 60_000} minutes of speech")
                        yield chunk
        except WireError as error:
            ours = f"{endpoint.name}: unreadable speech"
            raise ServiceError(f"{ours}: {error}"[:500], in_our_words=ours) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise endpoint.lost(error) from error
        if not spoken_ms and has_words(request.text):
            raise endpoint.error("no sound for an answer with words; does the voice know the language?")


async def _chunks(endpoint: Endpoint, response: aiohttp.ClientResponse) -> AsyncGenerator[SpeechChunk, None]:
    if response.content_type == JSON_LINES:
        async for line in read_lines(endpoint, response):
            yield decode_line(line)
        return
    cutter = _cutter(response)
    async for data in response.content.iter_any():
        for chunk in cutter.feed(data):
            yield chunk
    for chunk in cutter.end():
        yield chunk


def _cutter(response: aiohttp.ClientResponse) -> PcmCutter | WavCutter:
    content_type = response.content_type.lower()
    if content_type in WAV_TYPES:
        return WavCutter()
    if content_type not in RAW_TYPES:
        raise WireError(f"the content type is {content_type!r}; expected one of {ACCEPT!r}")
    parameters = Message()
    parameters["Content-Type"] = response.headers.get("Content-Type", content_type)  # it may have none
    if parameters.get_param("channels", "1") != "1":
        raise WireError("more than one channel; expected mono")
    sample_rate = response.headers.get(SAMPLE_RATE_HEADER) or str(parameters.get_param("rate", ""))
    if not sample_rate.isdecimal():
        raise WireError(f"no sample rate: say it in the header {SAMPLE_RATE_HEADER} or as audio/L16;rate=22050")
    return PcmCutter(int(sample_rate))
