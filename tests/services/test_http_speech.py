"""The text-to-speech client against services that stream raw sound, WAV files, JSON lines, and rubbish."""

import asyncio
import base64
import json
import struct
from contextlib import aclosing

import aiohttp
import pytest
from aiohttp import web
from service_peers import Handler, Serve

from orchestrator.services.failures import ServiceError
from orchestrator.services.http_speech import HttpTextToSpeech
from orchestrator.services.ports import Request, SpeechChunk, SpokenWord
from orchestrator.services.speech_wire import encode_line

SOUND = bytes(range(256)) * 100  # 25,600 bytes: 800 ms at 16 kHz


def streamed(headers: dict[str, str], *pieces: bytes) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    return handler


def wav(sound: bytes, length: int | None = None) -> bytes:
    fmt = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    size = len(sound) if length is None else length
    return (
        b"RIFF\0\0\0\0WAVEfmt "
        + struct.pack("<I", 16)
        + fmt
        + b"LIST\3\0\0\0abc\0data"
        + struct.pack("<I", size)
        + sound
    )


async def spoken(http: aiohttp.ClientSession, url: str, text: str = "hello") -> list[SpeechChunk]:
    return [chunk async for chunk in HttpTextToSpeech(http, url, timeout_ms=2_000).synthesize(Request(text))]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "audio/L16;rate=16000;channels=1"},
        {"Content-Type": "application/octet-stream", "X-Sample-Rate": "16000"},
    ],
)
async def test_raw_sound_comes_as_chunks_of_200_ms(
    http: aiohttp.ClientSession, serve: Serve, headers: dict[str, str]
) -> None:
    """However the service cuts it, even in the middle of a sample."""
    url = await serve(streamed(headers, SOUND[:3], SOUND[3:7001], SOUND[7001:]))
    chunks = await spoken(http, url)
    assert [chunk.duration_ms for chunk in chunks] == [200] * 4
    assert b"".join(chunk.pcm for chunk in chunks) == SOUND
    assert chunks[0].sample_rate_hz == 16_000


@pytest.mark.parametrize("length", [None, 0, 0xFFFFFFFF])
async def test_a_wav_file_may_be_streamed_without_a_length(
    http: aiohttp.ClientSession, serve: Serve, length: int | None
) -> None:
    """Those who stream do not know the length yet, and other chunks may stand before the sound."""
    whole = wav(SOUND, length)
    url = await serve(streamed({"Content-Type": "audio/wav"}, whole[:10], whole[10:50], whole[50:]))
    chunks = await spoken(http, url)
    assert b"".join(chunk.pcm for chunk in chunks) == SOUND


async def test_json_lines_carry_when_each_word_is_spoken(http: aiohttp.ClientSession, serve: Serve) -> None:
    """So that an interrupted answer is known to the word also when a remote service spoke it."""
    chunk = SpeechChunk(SOUND[:6400], 16_000, (SpokenWord("Café!", 40),))
    line = encode_line(chunk)
    url = await serve(streamed({"Content-Type": "application/x-ndjson"}, line[:100], line[100:] + line[:-1]))
    assert await spoken(http, url) == [chunk, chunk]


PCM = base64.b64encode(SOUND[:6400]).decode()


def a_line(**fields: object) -> bytes:
    return json.dumps({"pcm": PCM, "sample_rate_hz": 16_000} | fields).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (a_line(words=[["Hi", 0], ["there", 100]]), [("Hi", 0), ("there", 100)]),
        (a_line(words=[["Hi", 0, 100], ["there", 100, 200]]), [("Hi", 0), ("there", 100)]),
        (a_line(words=[{"word": "Hi", "start": 0.0}, {"word": "there", "start": 0.1}]), [("Hi", 0), ("there", 100)]),
        (a_line(words=[{"text": "Hi", "start": 2, "end": 2.5}]), [("Hi", 2000)]),
        (a_line(words=[{"text": "Hi", "at_ms": 12.6, "start": 0}]), [("Hi", 13)]),
        (a_line(words=[{"word": "Hi", "start_time": 1.25}, {"word": "x", "start_ms": 7}]), [("Hi", 1250), ("x", 7)]),
        (a_line(words=None), []),
        (a_line(), []),
        (a_line(sample_rate_hz=16_000.0), []),
        (a_line(words=[["half \ud83d", 0]]), [("half �", 0)]),
        (b"\xef\xbb\xbf" + a_line(words=[["Hi", 0]]).replace(b"\n", b"\r\n"), [("Hi", 0)]),
    ],
)
async def test_word_times_are_read_as_services_send_them(
    http: aiohttp.ClientSession, serve: Serve, line: bytes, words: list[tuple[str, int]]
) -> None:
    """Pairs in milliseconds, objects in seconds, none at all; half a character is replaced."""
    (chunk,) = await spoken(http, await serve(streamed({"Content-Type": "application/x-ndjson"}, line)))
    assert [(word.text, word.at_ms) for word in chunk.words] == words


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (a_line(words=[["Hi", 0.5]]), r'the word \["Hi", 0.5\]; expected \["Hi!", 694\] in whole milliseconds'),
        (a_line(words=[["Hi", 0.0]]), "in seconds"),
        (a_line(words=[["Hi", None]]), "null"),
        (a_line(words=[["Hi", True]]), "true"),
        (a_line(words=[["Hi", "0.1s"]]), "0.1s"),
        (a_line(words=[["Hi"]]), "Hi"),
        (a_line(words=["Hi"]), "Hi"),
        (a_line(words=7), "its words are 7; expected a list"),
        (a_line(words={"Hi": 0}), "the word"),
        (a_line(words=[{"word": "Hi"}]), "expected a number in one of at_ms, start_ms, start"),
        (a_line(words=[{"word": "Hi", "start": "0"}]), "expected a number"),
        (a_line(words=[{"word": "Hi", "start": 1e300}]), "expected a number"),
        (a_line(words=[["Hi", float("nan")]]), "the number NaN"),
        (a_line(words=[["Hi", float("inf")]]), "the number Infinity"),
        (a_line(sample_rate_hz=float("nan")), "the number NaN"),
        (a_line(sample_rate_hz="16k"), "the sample rate of the speech is '16k'"),
        (a_line(sample_rate_hz=None), "sample rate"),
        (a_line(sample_rate_hz=10**400), "sample rate"),
        (a_line(pcm=None), "pcm is null"),
        (a_line(pcm="é"), "expected base64"),
        (a_line(pcm="AAAA"), "3 bytes"),
        (a_line(error=""), "gave up: it does not say why"),
        (b'{"pcm":' + b"[" * 100_000 + b"\n", "nested too deeply"),
        (b"\xff\n", "not JSON"),
    ],
)
async def test_a_line_that_cannot_be_read_names_the_service_and_what_was_sent(
    http: aiohttp.ClientSession, serve: Serve, line: bytes, problem: str
) -> None:
    """A ServiceError, whatever came: no other error could be told to anybody."""
    url = await serve(streamed({"Content-Type": "application/x-ndjson"}, line))
    with pytest.raises(ServiceError, match=problem) as refused:
        await spoken(http, url)
    assert str(refused.value).startswith(f"POST {url}/stream: unreadable speech: ")


async def test_the_first_chunk_is_there_before_the_service_has_the_rest(
    http: aiohttp.ClientSession, serve: Serve
) -> None:
    """Speech is played while it is made."""
    heard = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "audio/L16;rate=16000"})
        await response.prepare(request)
        await response.write(SOUND[:6400])
        await heard.wait()
        await response.write(SOUND[:6400])
        return response

    count = 0
    async for _ in HttpTextToSpeech(http, await serve(handler)).synthesize(Request("x")):
        heard.set()
        count += 1
    assert count == 2


@pytest.mark.parametrize(
    ("headers", "body", "problem"),
    [
        ({"Content-Type": "text/html"}, b"<html>", "content type is 'text/html'"),
        ({"Content-Type": "audio/L16"}, b"\0\0", "no sample rate"),
        ({"Content-Type": "audio/L16;rate=1"}, b"\0\0", "sample rate of 1 Hz"),
        ({"Content-Type": "audio/L16;rate=16000;channels=2"}, b"\0\0", "more than one channel"),
        ({"Content-Type": "audio/L16;rate=16000"}, b"\0\0\0", "odd number of bytes"),
        ({"Content-Type": "audio/L16;rate=16000"}, b"", "no sound"),
        ({"Content-Type": "audio/wav"}, b"ID3 and so on", "not a WAV file"),
        ({"Content-Type": "audio/wav"}, b"RIFF", "without a data chunk"),
        ({"Content-Type": "application/x-ndjson"}, b"{}\n", "unreadable line"),
        ({"Content-Type": "application/x-ndjson"}, b'{"error": "out of voice"}\n', "gave up: out of voice"),
        ({"Content-Type": "application/x-ndjson"}, b"x" * 1_100_000, "more than 1 MiB"),
    ],
)
async def test_unreadable_speech_is_a_service_error_that_says_why(
    http: aiohttp.ClientSession, serve: Serve, headers: dict[str, str], body: bytes, problem: str
) -> None:
    """Noise must never be played because a header was misread."""
    url = await serve(streamed(headers, body))
    with pytest.raises(ServiceError, match=problem):
        await spoken(http, url)


@pytest.mark.parametrize("text", ["👍", "...", "—", "😊😊", "*", "<break time='1s'/>", " ", "🇩🇪", "♪"])
@pytest.mark.parametrize(
    "headers", [{"Content-Type": "audio/L16;rate=16000"}, {"Content-Type": "application/x-ndjson"}]
)
async def test_a_text_without_words_may_have_no_sound(
    http: aiohttp.ClientSession, serve: Serve, text: str, headers: dict[str, str]
) -> None:
    """The service is not at fault: there is nothing to be spoken."""
    assert await spoken(http, await serve(streamed(headers)), text) == []


async def test_a_text_without_words_may_have_empty_chunks(http: aiohttp.ClientSession, serve: Serve) -> None:
    """As many as the service likes to send."""
    lines = [encode_line(SpeechChunk(b"", 16_000))] * 3
    chunks = await spoken(http, await serve(streamed({"Content-Type": "application/x-ndjson"}, *lines)), "👍")
    assert b"".join(chunk.pcm for chunk in chunks) == b""


async def test_a_stream_that_stalls_is_given_up(http: aiohttp.ClientSession, serve: Serve) -> None:
    """The wait for the next bytes is bounded, not the length of the speech."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "audio/L16;rate=16000"})
        await response.prepare(request)
        await response.write(SOUND)
        await asyncio.Event().wait()
        return response

    speech = HttpTextToSpeech(http, await serve(handler), timeout_ms=50)
    with pytest.raises(ServiceError, match="no answer within"):
        async for _ in speech.synthesize(Request("x")):
            pass


async def test_a_listener_who_stops_closes_the_request(http: aiohttp.ClientSession, serve: Serve) -> None:
    """An interrupted answer must not go on being made."""
    dropped = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "audio/L16;rate=16000"})
        await response.prepare(request)
        try:
            while True:
                await response.write(SOUND)
        finally:
            dropped.set()

    async with aclosing(HttpTextToSpeech(http, await serve(handler)).synthesize(Request("x"))) as chunks:
        await anext(chunks)
    await asyncio.wait_for(dropped.wait(), 2)
