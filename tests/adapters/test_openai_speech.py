"""OpenAI-compatible speech: against a local server with the same HTTP interface."""

import asyncio
import re

import pytest

from orchestrator.adapters.openai_speech import OpenAISpeechToText, OpenAITextToSpeech
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Request, Speaker, Transcript
from tests.adapters.conftest import Serve
from tests.adapters.openai_peer import OpenAIPeer


async def heard(port: OpenAISpeechToText, pcm: bytes, speaker: Speaker) -> Transcript | str:
    """The final, or the error, of one utterance."""
    result: asyncio.Queue[Transcript | str] = asyncio.Queue()
    recognizer = await port.open(result.put_nowait, result.put_nowait, speaker)
    recognizer.start()
    recognizer.feed(pcm)
    recognizer.finish()
    async with asyncio.timeout(5):
        found = await result.get()
    await recognizer.close()
    return found


@pytest.mark.parametrize("sends", ["pcm", "wav"])
async def test_speech_comes_in_chunks_as_it_arrives(serve: Serve, sends: str) -> None:
    """Raw PCM or WAV, whichever the server has; the key goes as a header."""
    peer = OpenAIPeer(sends=sends)
    base = await serve(peer.app())
    port = OpenAITextToSpeech("kokoro", "af_sky", base_url=f"{base}/v1", api_key=peer.api_key)
    async with port:
        chunks = [chunk async for chunk in port.synthesize(Request("We are open."))]
    assert [chunk.duration_ms for chunk in chunks] == [200, 200, 200, 120]
    assert {chunk.sample_rate_hz for chunk in chunks} == {24_000}
    assert peer.asked == [{"model": "kokoro", "voice": "af_sky", "response_format": "pcm", "input": "We are open."}]


@pytest.mark.parametrize(
    ("sends", "words"),
    [
        ("mp3", "it sends audio/mpeg; it must know response_format pcm or wav"),
        ("silence", "no sound for an answer with words"),
        ("half", "the connection broke"),
        ("hang", "no answer within 0.2 s"),
    ],
)
async def test_speech_that_cannot_be_played_is_a_service_error(serve: Serve, sends: str, words: str) -> None:
    """It names the address and the problem."""
    peer = OpenAIPeer(sends=sends)
    url = f"{await serve(peer.app())}/v1"
    async with OpenAITextToSpeech(base_url=url, api_key=peer.api_key, timeout_ms=200) as port:
        with pytest.raises(ServiceError, match=f"POST {url}/audio/speech: {words}"):
            assert [chunk async for chunk in port.synthesize(Request("We are open."))]


async def test_a_closed_generator_closes_the_request(serve: Serve) -> None:
    """An interruption ends the synthesis at the server."""
    peer = OpenAIPeer(sends="hang")
    base = await serve(peer.app())
    async with OpenAITextToSpeech(base_url=f"{base}/v1", api_key=peer.api_key) as port:
        chunks = port.synthesize(Request("We are open every day."))
        await anext(chunks)
        await chunks.aclose()
        await asyncio.wait_for(peer.left.wait(), 5)


async def test_an_utterance_is_transcribed_whole(serve: Serve) -> None:
    """As a WAV file of 16 kHz, in the language of the call, unless the port has its own."""
    peer = OpenAIPeer()
    base = f"{await serve(peer.app())}/v1"
    async with OpenAISpeechToText("whisper-1", base_url=base, api_key=peer.api_key, prompt="Kaffee") as port:
        final = await heard(port, bytes(32_000), Speaker("s", "de-DE"))
    assert isinstance(final, Transcript)
    assert (final.text, final.is_final, final.elapsed_us > 0) == ("when are you open", True, True)
    sound = (16_000, 1, 2, 16_000)
    asked = {"model": "whisper-1", "response_format": "json", "prompt": "Kaffee", "language": "de", "sound": sound}
    assert peer.asked == [asked]


async def test_a_wrong_key_is_named_and_not_repeated(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Address and key come from OpenAI's own variables where none are given; of the key nothing is shown."""
    peer = OpenAIPeer()
    monkeypatch.setenv("OPENAI_BASE_URL", f"{await serve(peer.app())}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wr0ng")
    async with OpenAITextToSpeech() as speech, OpenAISpeechToText() as hearing:
        with pytest.raises(ServiceError, match=r"status 401 \(Incorrect API key provided\.\)") as caught:
            await anext(speech.synthesize(Request("hello")))
        error = await heard(hearing, b"\0\0", Speaker())
    assert "wr0ng" not in f"{caught.value}{error}{speech!r}{vars(caught.value)}"
    assert re.fullmatch(r"POST http://127.0.0.1:\d+/v1/audio/transcriptions: status 401.*", str(error))


async def test_a_port_that_is_not_open_says_so() -> None:
    """Instead of an AttributeError."""
    with pytest.raises(ServiceError, match="OpenAITextToSpeech is not open: use `async with`"):
        await anext(OpenAITextToSpeech().synthesize(Request("hello")))
