"""The console's call against a real WebRTC peer: it is heard, falls silent at once, and knows what was heard."""

import asyncio
import contextlib
import math
from array import array
from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from av import AudioFrame

from orchestrator.gateway.messages import (
    BargeInMessage,
    ErrorMessage,
    LogMessage,
    PhaseMessage,
    PlaybackDoneMessage,
    PlaybackMarkMessage,
    PlaybackStartMessage,
    PlaybackStopMessage,
    SessionMessage,
    WebrtcAnswerMessage,
    WebrtcOfferMessage,
)
from tests.browser.chromium import Chromium, chromium_path
from tests.gateway.talk_page_server import PageServer, Wire

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one or set ORCH_CHROMIUM"),
    pytest.mark.asyncio(loop_scope="module"),
]

SAMPLES = 960  # 20 ms at 48 kHz
TONE = array("h", (round(8_000 * math.sin(2 * math.pi * 400 * i / 48_000)) for i in range(SAMPLES))).tobytes()
SILENCE = bytes(2 * SAMPLES)
READY = SessionMessage(session_id="auto_session_1", resume_token="token-1")
LOUD = 0.05
STAYS_MUTED = "{ const real = setTimeout; window.setTimeout = (run, ms) => (ms === 300 ? 0 : real(run, ms)); }"
"""Holds the page's timer that unmutes after a stop: the server stops sending then, and the agent of a test does not."""


class Tone(MediaStreamTrack):
    """The agent's voice: a tone while `speaking`, silence otherwise, 50 frames a second without a gap."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.speaking = False
        self._frames = 0
        self._began = asyncio.get_running_loop().time()

    async def recv(self) -> AudioFrame:
        await asyncio.sleep(self._began + self._frames * 0.02 - asyncio.get_running_loop().time())
        frame = AudioFrame(format="s16", layout="mono", samples=SAMPLES)
        frame.planes[0].update(TONE if self.speaking else SILENCE)
        frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), self._frames * SAMPLES
        self._frames += 1
        return frame


class Agent:
    """The server's side of one call."""

    def __init__(self) -> None:
        self.voice = Tone()
        self.ears: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.sender = self.connection.addTrack(self.voice)
        self.connection.on("track", self.ears.set_result)

    async def answer(self, offer: WebrtcOfferMessage) -> WebrtcAnswerMessage:
        await self.connection.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
        await self.connection.setLocalDescription(await self.connection.createAnswer())
        return WebrtcAnswerMessage(sdp=self.connection.localDescription.sdp, handler_id="fastrtc_1")

    @property
    def rtp(self) -> int:
        """The timestamp of the packet sent last; aiortc keeps it to itself."""
        return int(self.sender._RTCRtpSender__rtp_timestamp)  # type: ignore[attr-defined]


@pytest_asyncio.fixture(loop_scope="module")
async def page(one_browser: Chromium, server: PageServer) -> AsyncIterator[Chromium]:
    one_browser.console.clear()
    await one_browser.goto(server.url)
    yield one_browser
    await one_browser.goto("about:blank")


@contextlib.asynccontextmanager
async def call(page: Chromium, server: PageServer) -> AsyncIterator[tuple[Wire, Agent]]:
    """A conversation with a call that carries audio both ways."""
    await page.click("#start-call")
    wire = await server.connection()
    await wire.send(READY, PhaseMessage(phase="LISTENING"))
    async with answered(page, wire) as agent:
        yield wire, agent


@contextlib.asynccontextmanager
async def answered(page: Chromium, wire: Wire) -> AsyncIterator[Agent]:
    """The call that the page offers next, answered and connected."""
    agent = Agent()
    try:
        offer = await wire.receive()
        assert isinstance(offer, WebrtcOfferMessage)
        await wire.send(await agent.answer(offer))
        await page.wait_for("orch.call === 'on'")
        yield agent
    finally:
        await agent.connection.close()


async def settled(page: Chromium, wire: Wire) -> None:
    """Returns when the page has dealt with everything that was sent so far."""
    line = f"settled {uuid4()}"  # a line of its own: that of an earlier call would be the last line already
    await wire.send(LogMessage(line=line))
    await page.wait_for(f"orch.log.at(-1) === '{line}'")


async def test_the_agent_is_heard_and_hears(page: Chromium, server: PageServer) -> None:
    """One click gives a call with sound in both directions."""
    async with call(page, server) as (wire, agent):
        await wire.send(PlaybackStartMessage(playback_id="p1"))
        agent.voice.speaking = True
        await page.wait_for(f"orch.heardLevel() > {LOUD} && orch.maxRemoteLevel() > {LOUD}")
        track = await agent.ears
        async with asyncio.timeout(5):
            while not any(abs(sample) > 1_000 for sample in array("h", bytes((await track.recv()).planes[0]))):
                pass  # Chromium's fake microphone beeps once a second
        assert page.console == []


async def test_a_stopped_playback_is_silent_at_once_and_a_late_start_does_not_revive_it(
    page: Chromium, server: PageServer
) -> None:
    """What the user cut off stays cut off; the next playback is heard again."""
    await page.evaluate(STAYS_MUTED)
    async with call(page, server) as (wire, agent):
        agent.voice.speaking = True
        await wire.send(PlaybackStartMessage(playback_id="p1"))
        await page.wait_for(f"orch.heardLevel() > {LOUD}")
        await wire.send(PlaybackStopMessage(playback_id="p1"))
        await settled(page, wire)
        assert await page.evaluate("orch.muted")
        await wire.send(PlaybackStartMessage(playback_id="p1"))
        await settled(page, wire)
        assert await page.evaluate("orch.heardLevel()") == 0
        assert await page.evaluate("orch.remoteLevel()") > LOUD, "muted by the page, not by luck"

        await wire.send(PlaybackStartMessage(playback_id="p2"), PlaybackStopMessage(playback_id="p1"))
        await settled(page, wire)
        assert not await page.evaluate("orch.muted"), "a late stop of the old playback leaves the new one alone"
        await page.wait_for(f"orch.heardLevel() > {LOUD}")


async def test_an_answer_is_heard_before_its_start_is_told(page: Chromium, server: PageServer) -> None:
    """After an interruption, on a WebSocket that is slower than the sound: the page does not wait for it."""
    async with call(page, server) as (wire, agent):
        await wire.send(PlaybackStartMessage(playback_id="p1"), PlaybackStopMessage(playback_id="p1"))
        await settled(page, wire)
        agent.voice.speaking = True
        await page.wait_for(f"orch.heardLevel() > {LOUD}")


async def test_the_end_of_a_playback_is_reported_when_it_was_heard(page: Chromium, server: PageServer) -> None:
    """PLAYBACK_DONE comes from the loudspeaker's clock: not before the marked packet was sent."""
    async with call(page, server) as (wire, agent):
        agent.voice.speaking = True
        await wire.send(PlaybackStartMessage(playback_id="p1"))
        await page.wait_for(f"orch.heardLevel() > {LOUD}")
        mark = (agent.rtp + 24_000) % 2**32  # half a second ahead
        await wire.send(PlaybackMarkMessage(playback_id="p1", rtp=mark))
        assert await wire.receive() == PlaybackDoneMessage(playback_id="p1")
        assert (agent.rtp - mark) % 2**32 < 2**31, "not before it was even sent"
        assert await page.evaluate("orch.playback_id") is None


async def test_a_playback_that_was_stopped_is_never_reported_as_heard(page: Chromium, server: PageServer) -> None:
    """A mark under way is withdrawn by the stop; the next one is reported as ever."""
    async with call(page, server) as (wire, agent):
        agent.voice.speaking = True
        await page.wait_for(f"orch.remoteLevel() > {LOUD}")
        await wire.send(
            PlaybackStartMessage(playback_id="p1"),
            PlaybackMarkMessage(playback_id="p1", rtp=(agent.rtp + 9_600) % 2**32),
            PlaybackStopMessage(playback_id="p1"),
            PlaybackStartMessage(playback_id="p2"),
            PlaybackMarkMessage(playback_id="p2", rtp=(agent.rtp + 19_200) % 2**32),
        )
        assert await wire.receive() == PlaybackDoneMessage(playback_id="p2")


async def test_a_barge_in_says_how_much_was_heard(page: Chromium, server: PageServer) -> None:
    """The position is media time, so that a busy page or network does not falsify it: never more than was sent."""
    async with call(page, server) as (wire, agent):
        began = agent.rtp
        agent.voice.speaking = True
        await page.wait_for(f"orch.remoteLevel() > {LOUD}")
        await wire.send(PlaybackStartMessage(playback_id="p1"), PhaseMessage(phase="SPEAKING", turn=1))
        await page.wait_for("orch.phase === 'SPEAKING' && orch.position_ms >= 200")
        await page.click("#interrupt")
        message = await wire.receive()
        assert isinstance(message, BargeInMessage)
        assert message.playback_id == "p1"
        assert message.position_ms is not None
        assert 200 <= message.position_ms <= (agent.rtp - began) % 2**32 / 48


async def test_a_rejoined_conversation_keeps_a_call_that_still_carries_sound(
    page: Chromium, server: PageServer
) -> None:
    """A dropped WebSocket does not interrupt the voice."""
    async with call(page, server) as (wire, _):
        wire.drop()
        wire = await server.connection()
        await wire.send(READY, PhaseMessage(phase="SPEAKING"))
        await page.wait_for("orch.link === 'open' && orch.phase === 'SPEAKING'")
        await page.evaluate("new Promise(resolve => setTimeout(resolve, 1200))")  # it looks for a second
        await page.click("#interrupt")
        assert isinstance(await wire.receive(), BargeInMessage), "and no new offer before it"
        assert await page.evaluate("orch.call") == "on"


async def test_a_rejoined_conversation_calls_again_when_the_sound_is_gone(page: Chromium, server: PageServer) -> None:
    """After the server was restarted the user speaks on without a click."""
    async with call(page, server) as (wire, agent):
        agent.voice.speaking = True
        await page.wait_for(f"orch.remoteLevel() > {LOUD}")
        await agent.sender.stop()  # as when the process died: packets end without a farewell
        wire.drop()
        wire = await server.connection()
        await wire.send(READY, PhaseMessage(phase="LISTENING"))
        async with answered(page, wire) as second:
            second.voice.speaking = True
            await page.wait_for(f"orch.heardLevel() > {LOUD}")


async def test_the_page_comes_back_and_calls_again_when_the_sound_ends(page: Chromium, server: PageServer) -> None:
    """Its network has changed: the old socket says nothing, and would for minutes."""
    async with call(page, server) as (_, agent):
        agent.voice.speaking = True
        await page.wait_for(f"orch.remoteLevel() > {LOUD}")
        await agent.sender.stop()
        wire = await server.connection()
        assert wire.query == {"session_id": "auto_session_1", "resume_token": "token-1"}
        await wire.send(READY, PhaseMessage(phase="LISTENING"))
        async with answered(page, wire) as second:
            second.voice.speaking = True
            await page.wait_for(f"orch.heardLevel() > {LOUD}")


async def test_a_refused_call_leaves_the_conversation_in_text(page: Chromium, server: PageServer) -> None:
    """The user learns why there is no sound, and goes on by typing."""
    await page.click("#start-call")
    wire = await server.connection()
    await wire.send(READY, PhaseMessage(phase="LISTENING"))
    assert isinstance(await wire.receive(), WebrtcOfferMessage)
    await wire.send(ErrorMessage(code="call_failed", message="the offer has no audio"))
    await page.wait_for("orch.call === 'none'")
    notices = await page.evaluate("document.querySelector('#notices').innerText")
    assert "could not take the call" in notices
    assert "the offer has no audio" in notices
    assert await page.evaluate("orch.link") == "open"


FAKE_MEDIA = """
  const { Playback } = await import("/static/playback.js");
  const reported = [];
  const playback = new Playback({ muted: false }, (id) => reported.push(id));
  const at = (rtpTimestamp) => playback.attach(
    { getStats: async () => new Map() }, { getSynchronizationSources: () => [{ rtpTimestamp }] });
"""


async def test_a_stop_mutes_for_its_own_time_also_right_after_another(page: Chromium) -> None:
    """The timer of the first stop does not unmute what the second has just muted."""
    seen = await page.evaluate(
        f"(async () => {{ {FAKE_MEDIA}"
        "const timers = new Map(); let last = 0;"
        "window.setTimeout = (run, ms) => { timers.set(++last, [run, ms]); return last; };"
        "window.clearTimeout = (id) => timers.delete(id);"
        "for (const id of ['p1', 'p2']) { playback.start(id); playback.stop(id); }"
        "const [[run, ms], ...more] = timers.values(); const before = playback.audio.muted; run();"
        "return [ms, more.length, before, playback.audio.muted]; })()"
    )
    assert seen == [300, 0, True, False]


async def test_a_mark_beyond_the_wrap_of_the_clock_is_not_reached_early(page: Chromium) -> None:
    """RTP time wraps at 2^32: just before it, a mark just after it still lies ahead."""
    reported = await page.evaluate(
        f"(async () => {{ {FAKE_MEDIA}"
        "at(2 ** 32 - 480); const done = playback.mark('wraps', 480);"
        "await new Promise((resolve) => setTimeout(resolve, 100)); const early = [...reported];"
        "playback.receiver.getSynchronizationSources = () => [{ rtpTimestamp: 500 }];"
        "await done; return [early, reported]; })()"
    )
    assert reported == [[], ["wraps"]]


async def test_a_mark_that_is_never_reached_is_given_up_and_not_claimed(page: Chromium) -> None:
    """The server's timer decides then; the page neither hangs nor lies."""
    reported = await page.evaluate(
        f"(async () => {{ {FAKE_MEDIA}"
        "let time = 0; performance.now = () => (time += 1000);"
        "at(0); await playback.mark('lost', 48000); return reported; })()"
    )
    assert reported == []
    assert any("mark was not reached" in text for _, text in page.console)
