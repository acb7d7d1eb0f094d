"""LiveKit's plugins as ports: Deepgram's and ElevenLabs' over WebSocket, OpenAI's over HTTP, against local servers."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from orchestrator.port_filling import users_ports
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Request, Speaker, Transcript
from tests.adapters.conftest import Serve
from tests.adapters.openai_peer import OpenAIPeer
from tests.adapters.vendor_peers import DeepgramPeer, ElevenLabsPeer

pytest.importorskip("livekit.agents", reason="the dependency group `adapters` is not installed")

from livekit.agents import stt
from livekit.plugins import deepgram, elevenlabs, openai

from orchestrator.adapters.livekit import LiveKitSpeechToText, LiveKitTextToSpeech, _StreamRecognizer

SECOND = bytes(32_000)


class Ear:
    """A recogniser, and everything that it reported."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Transcript] = asyncio.Queue()
        self.errors: asyncio.Queue[str] = asyncio.Queue()
        self.recognizer: Any = None

    async def says(self, seconds: int = 2) -> list[tuple[str, bool]]:
        """Everything that is understood of an utterance."""
        self.recognizer.start()
        for _ in range(seconds * 50):
            self.recognizer.feed(SECOND[: 32_000 // 50])
        await asyncio.sleep(0.05)  # to the server and back, so that there are partials
        self.recognizer.finish()
        return await self.final()

    async def final(self) -> list[tuple[str, bool]]:
        found = []
        async with asyncio.timeout(5):
            while not found or not found[-1][1]:
                transcript = await self.heard.get()
                found.append((transcript.text, transcript.is_final))
        return found


@pytest.fixture
async def ear() -> AsyncIterator[Ear]:
    ear = Ear()
    yield ear
    if ear.recognizer is not None:
        await ear.recognizer.close()


async def opened(ear: Ear, port: Any, language: str = "") -> None:
    speaker = Speaker("s", language)
    ear.recognizer = await port.open(ear.heard.put_nowait, ear.errors.put_nowait, speaker)


async def base(serve: Serve, *peers: Any) -> str:
    application = web.Application()
    for peer in peers:
        application.add_routes(peer.routes())
    return await serve(application)


async def test_two_utterances_over_one_stream(serve: Serve, ear: Ear) -> None:
    """Partials while the user speaks, a final after the flush; the language of the call."""
    peer = DeepgramPeer()
    plugin = deepgram.STT(api_key="dg-key", base_url=f"{await base(serve, peer)}/v1/listen")
    (port,) = users_ports(stt=plugin)["stt"]
    async with port:
        await opened(ear, port, "de-DE")
        for _ in range(2):
            *partials, final = await ear.says()
            assert final == ("when are you open", True)
            assert partials
            assert all("when are you open".startswith(text) and not is_final for text, is_final in partials)
        await ear.recognizer.close()
    (asked,) = peer.opened
    assert (asked["Authorization"], asked["language"], asked["sample_rate"]) == ("Token dg-key", "de-DE", "16000")
    assert peer.finalized_bytes == [64_000, 64_000]
    ear.recognizer = None


async def test_words_count_where_no_final_comes(serve: Serve, ear: Ear) -> None:
    """After `settle_ms` the last interim words are the final."""
    peer = DeepgramPeer(does="silent")
    plugin = deepgram.STT(api_key="dg-key", base_url=f"{await base(serve, peer)}/v1/listen")
    async with LiveKitSpeechToText(plugin, settle_ms=200) as port:
        await opened(ear, port)
        assert (await ear.says(1))[-1] == ("when are", True)
        assert (await ear.says(0))[-1] == ("", True)


async def test_a_cancelled_utterance_has_no_result(serve: Serve, ear: Ear) -> None:
    """Its words are not those of the next one, either."""
    peer = DeepgramPeer()
    plugin = deepgram.STT(api_key="dg-key", base_url=f"{await base(serve, peer)}/v1/listen")
    async with LiveKitSpeechToText(plugin) as port:
        await opened(ear, port)
        ear.recognizer.start()
        ear.recognizer.feed(SECOND)
        ear.recognizer.cancel()
        await asyncio.sleep(0.1)
        peer.text = "where are you"
        assert (await ear.says())[-1] == ("where are you", True)
        assert ear.heard.empty()


async def test_a_final_that_comes_late_belongs_to_its_own_utterance(serve: Serve, ear: Ear) -> None:
    """The user has gone on meanwhile: no word is lost at the end of the first utterance, or doubled in the second."""
    peer = DeepgramPeer()
    plugin = deepgram.STT(api_key="dg-key", base_url=f"{await base(serve, peer)}/v1/listen")
    async with LiveKitSpeechToText(plugin, settle_ms=5_000) as port:
        await opened(ear, port)
        peer.may_finalize.clear()
        ear.recognizer.start()
        ear.recognizer.feed(2 * SECOND)
        assert (await ear.heard.get()).text, "a partial: the plugin gives times"
        ear.recognizer.finish()
        ear.recognizer.start()
        ear.recognizer.feed(SECOND)
        peer.may_finalize.set()
        assert (await ear.final())[-1] == ("when are you open", True)
        peer.text = "on sunday"
        ear.recognizer.finish()
        assert [text for text, is_final in await ear.final() if is_final] == ["on sunday"]


async def test_a_final_that_was_given_up_is_not_the_next_ones(serve: Serve, ear: Ear) -> None:
    """It came after `settle_ms`: the words so far were the final, and the rest is dropped."""
    peer = DeepgramPeer()
    plugin = deepgram.STT(api_key="dg-key", base_url=f"{await base(serve, peer)}/v1/listen")
    async with LiveKitSpeechToText(plugin, settle_ms=50) as port:
        await opened(ear, port)
        peer.may_finalize.clear()
        assert (await ear.says(1))[-1] == ("when are", True)
        ear.recognizer.start()
        ear.recognizer.feed(SECOND)
        peer.may_finalize.set()
        peer.text = "on sunday"
        ear.recognizer.finish()
        assert (await ear.final())[-1] == ("on sunday", True)


class Untimed:
    """The stream of a plugin that gives no times. LiveKit adds how long the stream took to begin, also to 0."""

    start_time_offset = 2e-7

    def __init__(self) -> None:
        self.events: asyncio.Queue[stt.SpeechEvent] = asyncio.Queue()

    def __aiter__(self) -> "Untimed":
        return self

    async def __anext__(self) -> stt.SpeechEvent:
        return await self.events.get()

    def push_frame(self, _: Any) -> None: ...
    def flush(self) -> None: ...
    async def aclose(self) -> None: ...


@pytest.mark.parametrize("end_s", [0.0, Untimed.start_time_offset])
async def test_the_words_of_a_plugin_without_times_are_heard(ear: Ear, end_s: float) -> None:
    """ElevenLabs', say, where a language is set: each utterance gets those that come while it is open or due."""
    stream = Untimed()
    port = LiveKitSpeechToText(SimpleNamespace(label="untimed"), settle_ms=5_000)
    ear.recognizer = _StreamRecognizer(port, stream, 5.0, True, ear.heard.put_nowait, ear.errors.put_nowait)

    def says(kind: stt.SpeechEventType, text: str) -> None:
        stream.events.put_nowait(stt.SpeechEvent(kind, alternatives=[stt.SpeechData("en", text, end_time=end_s)]))

    for words in ("book a table", "for two"):
        ear.recognizer.start()
        ear.recognizer.feed(SECOND)
        says(stt.SpeechEventType.INTERIM_TRANSCRIPT, words[:4])
        assert (await ear.heard.get()).text == words[:4].strip()
        ear.recognizer.finish()
        says(stt.SpeechEventType.FINAL_TRANSCRIPT, words)
        assert await ear.final() == [(words, True)]


async def test_a_text_without_words_is_not_asked_for(serve: Serve) -> None:
    """Plugins take its silence for a failure."""
    peer = ElevenLabsPeer()
    plugin = elevenlabs.TTS(api_key="el-key", base_url=f"{await base(serve, peer)}/v1", encoding="pcm_22050")
    async with LiveKitTextToSpeech(plugin) as port:
        assert [chunk async for chunk in port.synthesize(Request("👍"))] == []
    assert peer.texts == []


@pytest.mark.parametrize("does", ["dies", "refuses"])
async def test_a_recogniser_that_breaks_is_reported_at_once(serve: Serve, ear: Ear, does: str) -> None:
    """Without the plugin's own retries, which would take four seconds."""
    peer = DeepgramPeer(does=does)
    plugin = deepgram.STT(api_key="dg-key", base_url=f"{await base(serve, peer)}/v1/listen")
    async with LiveKitSpeechToText(plugin) as port:
        await opened(ear, port)
        ear.recognizer.start()
        ear.recognizer.feed(SECOND)
        error = await asyncio.wait_for(ear.errors.get(), 2)
        assert error.startswith("livekit.plugins.deepgram.stt.STT failed: API")
        assert len(peer.opened) == 1
        ear.recognizer.finish() if does == "refuses" else ear.recognizer.cancel()


async def test_a_plugin_without_streams_hears_whole_utterances(serve: Serve, ear: Ear) -> None:
    """OpenAI's, over HTTP."""
    peer = OpenAIPeer()
    url = f"{await serve(peer.app())}/v1"
    plugin = openai.STT(api_key=peer.api_key, base_url=url, model="whisper-1", use_realtime=False)
    async with LiveKitSpeechToText(plugin) as port:
        await opened(ear, port)
        assert await ear.says() == [("when are you open", True)]
    assert peer.asked[0]["sound"][3] == 32_000


async def test_speech_has_the_times_of_its_words(serve: Serve) -> None:
    """ElevenLabs' are those of characters; a stream for each text, over one connection."""
    peer = ElevenLabsPeer()
    plugin = elevenlabs.TTS(api_key="el-key", base_url=f"{await base(serve, peer)}/v1", encoding="pcm_22050")
    (port,) = users_ports(tts=plugin)["tts"]
    async with port:
        for text in ("We are open.", "Until six."):
            chunks = [chunk async for chunk in port.synthesize(Request(text))]
            assert {chunk.sample_rate_hz for chunk in chunks} == {22_050}
            assert sum(chunk.duration_ms for chunk in chunks) == pytest.approx(60 * len(text), abs=60)
            words = [(word.text, word.at_ms) for chunk in chunks for word in chunk.words]
            assert [word for word, _ in words] == text.split()
            assert [at_ms for _, at_ms in words] == [60 * text.index(word) for word in text.split()]
    assert (peer.texts, peer.api_keys) == (["We are open.", "Until six."], {"el-key"})


async def test_a_closed_generator_ends_the_synthesis(serve: Serve) -> None:
    """The user interrupted: within a moment, although the vendor has not finished."""
    peer = ElevenLabsPeer(does="slow")
    plugin = elevenlabs.TTS(api_key="el-key", base_url=f"{await base(serve, peer)}/v1", encoding="pcm_22050")
    async with LiveKitTextToSpeech(plugin) as port:
        chunks = port.synthesize(Request("A long text that nobody hears to its end."))
        await anext(chunks)
        async with asyncio.timeout(1):
            await chunks.aclose()


async def test_speech_that_breaks_is_a_service_error_at_once(serve: Serve) -> None:
    """It names the plugin; the next provider has time."""
    peer = ElevenLabsPeer(does="dies")
    plugin = elevenlabs.TTS(api_key="el-key", base_url=f"{await base(serve, peer)}/v1", encoding="pcm_22050")
    async with LiveKitTextToSpeech(plugin) as port, asyncio.timeout(2):
        with pytest.raises(ServiceError, match=r"livekit\.plugins\.elevenlabs\.tts\.TTS failed: API"):
            assert [chunk async for chunk in port.synthesize(Request("We are open."))]
    assert peer.texts == ["We are open."]


async def test_speech_of_a_plugin_without_streams(serve: Serve) -> None:
    """OpenAI's, over HTTP."""
    peer = OpenAIPeer()
    url = f"{await serve(peer.app())}/v1"
    plugin = openai.TTS(api_key=peer.api_key, base_url=url, model="tts-1", response_format="pcm")
    async with LiveKitTextToSpeech(plugin) as port:
        chunks = [chunk async for chunk in port.synthesize(Request("We are open."))]
    assert sum(chunk.duration_ms for chunk in chunks) == pytest.approx(720, abs=40)


def test_libraries_are_loaded_only_by_their_users() -> None:
    """Filling the ports imports none of them."""
    code = "import sys, orchestrator.port_filling; print(sys.modules.keys() & {'livekit', 'pydantic_ai', 'openai'})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
