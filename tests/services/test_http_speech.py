"""The text-to-speech client against services that stream raw sound, WAV files, JSON lines, and rubbish."""

import asyncio
import struct
from contextlib import aclosing

import aiohttp
import pytest
from aiohttp import web
from service_peers import Handler, Serve

from orchestrator.services.http_speech import HttpTextToSpeech
from orchestrator.services.ports import Request, ServiceError, SpeechChunk, SpokenWord
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
