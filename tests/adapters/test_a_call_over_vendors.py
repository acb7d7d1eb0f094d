"""A WebRTC call whose ears are Deepgram's and whose voice is ElevenLabs', until they die in the middle of it."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from events.codec import encode
from events.derived import CommandIssued
from events.envelope import Event
from events.inputs import HearingFailed, ProviderSwitched, TtsChunkReady
from events.recording import Header, dump, parse
from orchestrator import OpenAISpeechToText, OpenAITextToSpeech, Orchestrator, Policy, Settings
from orchestrator.replay.replay import replay
from orchestrator.session import REDUCER_VERSION
from tests.adapters.conftest import Serve
from tests.adapters.openai_peer import OpenAIPeer
from tests.adapters.vendor_peers import DeepgramPeer, ElevenLabsPeer
from tests.calls.service import Caller
from tests.media.peer import AUDIBLE_RMS
from tests.media.speech import speak

pytest.importorskip("livekit.agents", reason="the dependency group `adapters` is not installed")

from livekit.plugins import deepgram, elevenlabs

pytestmark = pytest.mark.calls


@pytest.fixture
async def peers(serve: Serve) -> SimpleNamespace:
    """The vendors, behind one address."""
    found = SimpleNamespace(deepgram=DeepgramPeer(), elevenlabs=ElevenLabsPeer(), openai=OpenAIPeer())
    application = web.Application()
    application.add_routes(found.deepgram.routes() + found.elevenlabs.routes() + found.openai.routes())
    found.url = f"{await serve(application)}/v1"
    return found


@pytest.fixture
async def service(peers: SimpleNamespace, tmp_path: Path) -> AsyncIterator[Orchestrator]:
    """Plugins first, OpenAI's interface second, for ears and voice."""

    async def answer(text: str) -> Any:
        yield f"You asked {text}. "
        yield "We are open until six."

    (tmp_path / "policy.yaml").write_text(f"intent: {{skip: true}}\n{PATIENT}")
    key = peers.openai.api_key
    async with Orchestrator(
        Settings(port=0, data_dir=tmp_path, policy_file=tmp_path / "policy.yaml", ice_host_addresses="127.0.0.1"),
        answer=answer,
        speech_to_text=[
            deepgram.STT(api_key="dg", base_url=f"{peers.url}/listen"),
            OpenAISpeechToText(base_url=peers.url, api_key=key),
        ],
        text_to_speech=[
            elevenlabs.TTS(api_key="el", base_url=peers.url, encoding="pcm_22050"),
            OpenAITextToSpeech(base_url=peers.url, api_key=key),
        ],
    ) as running:
        yield running


PATIENT = "endpointing: {incomplete_ms: 1000}\n"
"""A busy machine holds packets back for longer than a short wait."""


async def asks(caller: Caller, speech: bytes) -> None:
    """Say something, hear the answer to its end."""
    await caller.peer.say(speech)
    reply = await caller.hears("reply")
    assert reply["text"].startswith("You asked when are you open.")
    assert (await caller.peer.hears_agent(within_s=10, after_s=reply["_at_s"])).rms > AUDIBLE_RMS
    await caller.hears("phase", phase="LISTENING", reason="playback_done")


async def metric(service: Orchestrator, name: str) -> float:
    async with aiohttp.ClientSession() as http, http.get(f"{service.url}/metrics") as response:
        (value,) = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", await response.text(), re.MULTILINE)
    return float(value)


def sounded_within_ms(log: list[Event]) -> float:
    """From the longest-awaited Speak to its first sound, by the times of the events."""
    asked = {event.target: event.at_us for event in log if isinstance(event, CommandIssued) and event.name == "Speak"}
    sounded: dict[str, int] = {}
    for event in log:
        if isinstance(event, TtsChunkReady):
            sounded.setdefault(event.playback_id, event.at_us)
    assert len(asked) == 4, "three answers, and the words for a lost utterance"
    return max(sounded[playback] - at_us for playback, at_us in asked.items()) / 1000


async def test_a_call_goes_on_when_its_vendors_die(service: Orchestrator, peers: SimpleNamespace) -> None:
    """Voice: in the same answer, within the deadline. Ears: after one utterance. The log says both, and replays."""
    speech = speak("when are you open")
    async with Caller(service) as caller:
        await caller.hears("phase", phase="LISTENING")
        await asks(caller, speech)
        assert peers.elevenlabs.texts == ["You asked when are you open.", "We are open until six."]
        assert len(peers.deepgram.finalized_bytes) == 1

        peers.elevenlabs.does = "dies"
        await asks(caller, speech)
        assert [asked["input"].strip() for asked in peers.openai.asked] == [
            "You asked when are you open.",
            "We are open until six.",
        ]
        assert await metric(service, "orch_service_switched_total") == 1

        peers.deepgram.does = "dies"
        await caller.peer.say(speech)
        assert (await caller.hears("reply"))["text"] == Policy().fallback.unheard
        await caller.hears("phase", phase="LISTENING", reason="playback_done")
        await asks(caller, speech)
        assert await metric(service, "orch_service_broken") >= 1
        log = await service.node.read_log(caller.session_id)
    assert sounded_within_ms(log) <= Policy().deadlines.tts_ms
    switches = [(event.service, event.provider) for event in log if isinstance(event, ProviderSwitched)]
    assert switches == [("text-to-speech", "OpenAITextToSpeech"), ("speech-to-text", "OpenAISpeechToText")]
    assert [event.is_utterance_lost for event in log if isinstance(event, HearingFailed)] == [True]
    recording = dump(Header(reducer_version=REDUCER_VERSION), map(encode, log))
    assert replay(parse(recording, "the call")).divergence is None
