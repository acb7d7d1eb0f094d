"""Text-to-speech by espeak-ng: chunks, words, cancellation, many at once, and what happens without it."""

import asyncio
import sys
import threading
from contextlib import aclosing

import pytest

from orchestrator.reference import espeak
from orchestrator.reference.speech import EspeakSpeech
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Request

LONG = "This is a rather long sentence that nobody will want to hear to its end. " * 40


async def test_speech_comes_in_chunks_of_200_ms_with_every_word_once() -> None:
    """Also small words that the engine runs together, and words of several parts; times never go back."""
    text = "Hi! We are open in the morning, it’s a drop-in; at 8:30. Café $5."
    chunks = [chunk async for chunk in EspeakSpeech().synthesize(Request(text))]
    words = [word for chunk in chunks for word in chunk.words]
    assert [word.text for word in words] == text.split()
    assert [word.at_ms for word in words] == sorted(word.at_ms for word in words)
    assert all(chunk.duration_ms == 200 for chunk in chunks[:-1])
    assert words[-1].at_ms < sum(chunk.duration_ms for chunk in chunks)
    assert {chunk.sample_rate_hz for chunk in chunks} == {22_050}


async def test_each_word_comes_with_the_chunk_it_begins_in() -> None:
    """A player that has a chunk knows what its listener hears."""
    at_ms = 0
    async for chunk in EspeakSpeech().synthesize(Request("We serve breakfast, soup, sandwiches and cake.")):
        assert all(at_ms - 1 <= word.at_ms <= at_ms + chunk.duration_ms for word in chunk.words)
        at_ms += chunk.duration_ms


@pytest.mark.parametrize("text", ["", "   ", "...", "a\0b", "\ud800", "🙂 hello", "<speak>x</speak>", "[[h@l'oU]]"])
async def test_no_text_is_too_strange_to_be_spoken(text: str) -> None:
    """Silence is fine, a crash is not."""
    async for chunk in EspeakSpeech().synthesize(Request(text)):
        assert chunk.pcm


async def test_a_text_beyond_all_bounds_is_refused() -> None:
    """The engine serves everybody: nobody may keep it for minutes."""
    with pytest.raises(ServiceError, match="at most 8000"):
        async for _ in EspeakSpeech().synthesize(Request("a" * 8_001)):
            pass


async def test_many_texts_at_once_do_not_mix() -> None:
    """One engine, one text at a time."""
    alone = [chunk async for chunk in EspeakSpeech().synthesize(Request("one two three"))]

    async def words(text: str) -> list[str]:
        return [word.text async for chunk in EspeakSpeech().synthesize(Request(text)) for word in chunk.words]

    texts = [f"one two three number {number}" for number in range(8)]
    assert await asyncio.gather(*map(words, texts)) == [text.split() for text in texts]
    again = [chunk async for chunk in EspeakSpeech().synthesize(Request("one two three"))]
    assert abs(sum(c.duration_ms for c in alone) - sum(c.duration_ms for c in again)) < 50


async def test_a_listener_who_stops_ends_the_synthesis() -> None:
    """The engine aborts instead of finishing minutes of speech that nobody hears, and is fine afterwards."""
    said = threading.Event()
    spoken_bytes = 0

    def sink(pcm: bytes, _: list[espeak.WordEvent]) -> bool:
        nonlocal spoken_bytes
        spoken_bytes += len(pcm)
        said.set()
        return False

    await asyncio.to_thread(espeak.engine().speak, LONG, "en-us", 165, sink)
    assert said.is_set()
    assert spoken_bytes < 22_050 * 2 // 4  # a quarter of a second of minutes
    async with aclosing(EspeakSpeech().synthesize(Request(LONG))) as chunks:
        await anext(chunks)
    assert [chunk async for chunk in EspeakSpeech().synthesize(Request("hello"))]


async def test_the_engine_is_free_again_whenever_a_listener_stops() -> None:
    """Two hundred listeners stop, each at another moment: none of them may leave the engine busy."""
    for number in range(200):
        async with aclosing(EspeakSpeech().synthesize(Request(LONG))) as chunks:
            for _ in range(number % 4):
                await anext(chunks)
    async with asyncio.timeout(5):
        assert [chunk async for chunk in EspeakSpeech().synthesize(Request("hello"))]


async def test_an_exception_in_the_sink_does_not_travel_through_c() -> None:
    """It ends the synthesis and is raised where speak() was called."""

    def sink(_: bytes, __: list[espeak.WordEvent]) -> bool:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        await asyncio.to_thread(espeak.engine().speak, "hello", "en-us", 165, sink)


async def test_a_voice_that_does_not_exist_is_refused_and_the_next_one_speaks() -> None:
    """A wrong setting is found at the start."""
    with pytest.raises(ServiceError, match="no voice 'klingon-tlh'"):
        await EspeakSpeech(voice="klingon-tlh").start()
    assert [chunk async for chunk in EspeakSpeech(voice="en").synthesize(Request("hello"))]


async def test_without_espeak_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is GPL-3 and optional: who has not got it is told what to install."""
    monkeypatch.setattr(espeak, "_engine", None)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ServiceError, match=r"orch-voice\[espeak\]"):
        await EspeakSpeech().start()
    with pytest.raises(ServiceError, match=r"orch-voice\[espeak\]"):
        async for _ in EspeakSpeech().synthesize(Request("hello")):
            pass
