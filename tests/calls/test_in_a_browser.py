"""The same calls in headless Chromium, with a fake microphone, through the talk page."""

import asyncio
import wave
from pathlib import Path
from typing import Any

import pytest

from events.inputs import PlaybackDone, SttFinal, TtsChunkReady
from orchestrator.session.phrases import normal
from tests.browser.chromium import Chromium, chromium_path
from tests.calls.checks import CASE_1, CASE_2, exported, shape
from tests.calls.service import Service
from tests.media.speech import speak

pytestmark = [
    pytest.mark.browser,
    pytest.mark.calls,
    pytest.mark.skipif(
        chromium_path() is None, reason="no Chromium on this machine (set ORCH_CHROMIUM, or install it)"
    ),
]

LOUD = 0.02
KEEP_CONNECTION_JS = """
const Peer = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Peer { constructor(...how) { super(...how); window.connection = this; } };
"""
STATISTICS_JS = """(async () => {
  let ours, theirs;
  while (!theirs) { // until the first packet has come
    const stats = [...(await connection.getStats()).values()];
    [ours, theirs] = ["outbound-rtp", "inbound-rtp"].map((type) => stats.find((entry) => entry.type === type));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const delay_ms = (1000 * theirs.jitterBufferDelay) / Math.max(1, theirs.jitterBufferEmittedCount);
  return { sent: ours.packetsSent, got: theirs.packetsReceived, concealed: theirs.concealedSamples, delay_ms };
})()"""


def microphone_file(path: Path, *parts: bytes | float) -> Path:
    """A WAV file for the fake microphone: spoken PCM, and silences in seconds. It plays from getUserMedia on."""
    pcm = b"".join(part if isinstance(part, bytes) else bytes(2 * int(part * 16_000)) for part in parts)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(pcm)
    return path


async def test_hello_in_the_talk_page_is_answered_aloud(tmp_path: Path) -> None:
    """One click, one word: the agent is heard, and the live log has the shape of test case 1."""
    mic = microphone_file(tmp_path / "mic.wav", 2.0, speak("hello"), 30.0)
    async with Service(tmp_path / "data") as service, Chromium(mic_file=mic, raw_microphone=True) as page:
        await start_call(page, service)
        await page.wait_for(f"orch.maxRemoteLevel() > {LOUD}", 20)
        await page.wait_for("orch.log.some(line => line.includes('playback_done'))", 20)
        assert shape(await golden(page)) == CASE_1
        log = await exported(service, await page.evaluate("orch.session_id"))
        assert [normal(event.text) for event in log if isinstance(event, SttFinal)] == ["hello"]
        assert [event.confirmed_by for event in log if isinstance(event, PlaybackDone)] == ["client"]


async def test_silence_costs_few_packets_in_either_direction(tmp_path: Path) -> None:
    """A browser rests as the answer asks, and takes the agent's rests for silence: its buffer stays short, it conceals
    nothing, and the agent that speaks after a rest is heard from its first word.
    """
    mic = microphone_file(tmp_path / "mic.wav", 4.0, speak("hello"), 30.0)
    async with Service(tmp_path / "data") as service, Chromium(mic_file=mic, raw_microphone=True) as page:
        await page.command("Page.addScriptToEvaluateOnNewDocument", source=KEEP_CONNECTION_JS)
        await start_call(page, service)
        before = await page.evaluate(STATISTICS_JS)
        await asyncio.sleep(2)
        silent = await page.evaluate(STATISTICS_JS)
        assert 2 <= silent["sent"] - before["sent"] <= 30
        assert 2 <= silent["got"] - before["got"] <= 10
        await page.wait_for("orch.log.some(line => line.includes('playback_done'))", 30)
        after = await page.evaluate(STATISTICS_JS)
        log = await exported(service, await page.evaluate("orch.session_id"))
        spoken = sum(event.duration_ms for event in log if isinstance(event, TtsChunkReady))
        assert after["got"] - silent["got"] >= spoken / 20
        assert after["concealed"] - before["concealed"] <= 0.02 * 48 * spoken
        assert after["delay_ms"] < 100


async def test_speaking_over_the_agent_in_the_talk_page_interrupts_it(tmp_path: Path) -> None:
    """The user speaks during the answer: silence in the page, INTERRUPT, and the new words are handled."""
    mic = microphone_file(tmp_path / "mic.wav", 2.0, speak("what can you do"), 3.5, speak("when do you close"), 30.0)
    async with Service(tmp_path / "data") as service, Chromium(mic_file=mic, raw_microphone=True) as page:
        await start_call(page, service)
        await page.wait_for("orch.muted && orch.log.some(line => line.includes('INTERRUPT'))", 25)
        await page.wait_for("orch.log.some(line => line.includes('playback_done'))", 30)
        lines = shape(await golden(page))
        interrupted = lines.index("[TTS] Playing...")
        assert lines[interrupted - 1 :][: len(CASE_2)] == CASE_2
        log = await exported(service, await page.evaluate("orch.session_id"))
        assert [normal(e.text) for e in log if isinstance(e, SttFinal)] == ["what can you do", "when do you close"]


async def start_call(page: Chromium, service: Service) -> None:
    await page.goto(service.url)
    await page.click("#start-call")
    await page.wait_for("orch.phase === 'LISTENING' && orch.call === 'on'", 15)


async def golden(page: Chromium) -> list[str]:
    lines: list[Any] = await page.evaluate("orch.log")
    return [str(line).partition("] ")[2] for line in lines]
