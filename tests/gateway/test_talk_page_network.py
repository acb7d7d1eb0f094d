"""The talk page on networks that fail, change or are slow, and from one conversation to the next."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from orchestrator.gateway.messages import (
    EndedMessage,
    ErrorMessage,
    IceServer,
    PhaseMessage,
    PlaybackStartMessage,
    PlaybackStopMessage,
    SessionMessage,
    WebrtcOfferMessage,
)
from tests.browser.chromium import Chromium, chromium_path
from tests.gateway.talk_page_alone import alone, call_alone, connection_alone
from tests.gateway.talk_page_server import PageServer, Wire
from tests.gateway.test_talk_page_broken import page_with
from tests.gateway.test_talk_page_call import answered, call, settled

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one or set ORCH_CHROMIUM"),
    pytest.mark.asyncio(loop_scope="module"),
]

READY = SessionMessage(session_id="auto_session_1", resume_token="token-1")
LISTENING = PhaseMessage(phase="LISTENING")
TURN_SERVER = IceServer(urls=("turn:192.0.2.1:3478",), username="1:anna", credential="secret")
LOST = ErrorMessage(code="call_lost", message="the audio of the call was lost (peer connection failed)")
KEEP_JS = """
window.connections = [];
const Peer = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Peer { constructor(...how) { super(...how); window.connections.push(this); } };
const ask = MediaDevices.prototype.getUserMedia;
MediaDevices.prototype.getUserMedia = async function (how) { return (window.microphone = await ask.call(this, how)); };
"""


@pytest_asyncio.fixture(loop_scope="module")
async def page(one_browser: Chromium, server: PageServer) -> AsyncIterator[Chromium]:
    """The page, which keeps its WebRTC connections in `connections`, and its microphone in `microphone`."""
    async with page_with(one_browser, server, KEEP_JS) as changed:
        yield changed


async def connected(page: Chromium, server: PageServer) -> Wire:
    """A conversation in text."""
    await page.click("#connect")
    wire = await server.connection()
    await wire.send(READY, LISTENING)
    await page.wait_for("orch.phase === 'LISTENING'")
    return wire


async def test_the_next_conversation_is_heard_although_its_playbacks_have_the_same_ids(
    page: Chromium, server: PageServer
) -> None:
    """What the user cut off in the conversation before is not cut off in this one."""
    wire = await connected(page, server)
    await wire.send(
        PlaybackStartMessage(playback_id="p1"), PlaybackStopMessage(playback_id="p1"), EndedMessage(reason="")
    )
    await wire.close(1000)
    await page.wait_for("orch.link === 'idle'")
    wire = await connected(page, server)
    await wire.send(PlaybackStartMessage(playback_id="p1"))
    await page.wait_for("orch.playback_id === 'p1' && !orch.muted")


async def test_a_call_whose_microphone_comes_before_the_session_uses_its_ice_servers(
    page: Chromium, server: PageServer
) -> None:
    """A caller behind a firewall is reached through the TURN server of the service in the first call, too."""
    await page.click("#start-call")
    wire = await server.connection()
    await page.wait_for("orch.call === 'connecting'")
    await wire.send(READY.model_copy(update={"ice_servers": (TURN_SERVER,)}))
    assert isinstance(await wire.receive(), WebrtcOfferMessage)
    servers = await page.evaluate("connections.at(-1).getConfiguration().iceServers")
    assert [one["urls"] for one in servers] == [list(TURN_SERVER.urls)]


async def test_a_call_that_the_browser_calls_interrupted_is_still_watched(page: Chromium) -> None:
    """ICE may say so before the page has noticed that nothing arrives: the page connects anew all the same."""
    told = await call_alone(
        page,
        "packets = () => 1; await connects(); connections[0].becomes('disconnected'); await pass(5000); return told;",
    )
    assert told == ["webrtc_offer", "lost"]


async def test_four_packets_of_a_silent_agent_may_be_lost_in_a_row(page: Chromium) -> None:
    """One comes every 400 ms. When none comes any more, the page notices within 2.5 s."""
    before, silent_ms = await call_alone(
        page,
        "const came = [...Array(20).keys()].filter((one) => one < 6 || one > 9).map((one) => 400 * one);"
        "packets = () => came.filter((at) => at <= now).length; await connects(); await pass(came.at(-1));"
        "const before = [...told]; while (!told.includes('lost') && now < 20000) await pass(10);"
        "return [before, now - came.at(-1)];",
    )
    assert before == ["webrtc_offer"]
    assert 2000 < silent_ms <= 2500


async def test_a_call_whose_next_packet_is_lost_is_still_alive(page: Chromium) -> None:
    """A page that rejoins during a silence of the agent leaves its call as it is."""
    is_alive = await alone(
        page,
        "const { Playback } = await import('/static/playback.js'); const playback = new Playback({}, () => {});"
        "const came = [0, 800, 1200]; now = 10; const entry = () => ({ type: 'inbound-rtp',"
        " packetsReceived: came.filter((at) => at <= now).length });"
        "playback.attach(null, { getStats: async () => new Map([['audio', entry()]]) });"
        "const alive = playback.isAlive(); await pass(3000); return await alive;",
    )
    assert is_alive


async def test_a_call_that_recovers_is_watched_once(page: Chromium) -> None:
    """However often; and it is watched again when it recovers after its network was found dead."""
    asked, told = await call_alone(
        page,
        "let asked = 0; packets = () => { asked += 1; return now; }; await connects();"
        "const recovers = () => ['disconnected', 'connected'].forEach((one) => connections[0].becomes(one));"
        "for (let n = 0; n < 3; n++) recovers(); await pass(990); const once = asked;"
        "packets = () => 1; await pass(5000); packets = () => now; recovers(); await pass(5000);"
        "packets = () => 1; await pass(5000); return [once, told];",
    )
    assert asked == 4
    assert told == ["webrtc_offer", "lost", "lost"]


async def test_an_offer_over_a_websocket_that_hangs_connects_anew_once(page: Chromium) -> None:
    """In a call that was on. It is given up where no answer comes over the new connection either."""
    told = await call_alone(
        page,
        "await connects(); connections[0].becomes('failed'); await pass(6000); told.push('new connection');"
        "await call.connected(); await pass(60000); return told;",
    )
    assert told == ["webrtc_offer", "webrtc_offer", "lost", "new connection", "webrtc_offer", "unanswered"]


async def test_a_call_whose_audio_the_server_has_lost_is_offered_again(page: Chromium, server: PageServer) -> None:
    """At once, and the user need not do anything. After the microphone was unplugged there is nothing to offer."""
    async with call(page, server) as (wire, _):
        await wire.send(LOST)
        async with answered(page, wire):
            await page.evaluate("microphone.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
            await page.wait_for("orch.call === 'none'")
            await wire.send(LOST)
            await settled(page, wire)
            assert not wire.unread()
            assert "audio of the call" not in await page.evaluate("document.querySelector('#notices').innerText")


async def test_a_call_that_is_lost_again_and_again_is_given_up(page: Chromium) -> None:
    """The third time in a row; a call that held for ten seconds begins the count anew."""
    told = await call_alone(
        page,
        "const lost = async () => { await connects(); call.lost(); };"
        "for (let n = 0; n < 2; n++) await lost(); await connects(); await pass(10001); told.push('it held');"
        "call.lost(); for (let n = 0; n < 3; n++) await lost(); call.lost(); await pass(60000); return told;",
    )
    assert told == [*["webrtc_offer"] * 3, "it held", *["webrtc_offer"] * 2, "lost"]


async def test_the_loss_of_an_older_call_leaves_the_new_one_alone(page: Chromium) -> None:
    """The server says so when the page hangs up the older one; also where the microphone is still being asked for."""
    told = await call_alone(
        page,
        "call.lost(); await connects(); await pass(1000); call.stop(); call.lost(); await pass(1000); return told;",
    )
    assert told == ["webrtc_offer"]


async def test_a_first_call_that_nobody_answers_is_given_up(page: Chromium) -> None:
    """But not before the server, which may have to start a speech-to-text, has had its time."""
    told = await call_alone(page, "await pass(17000); told.push('17 s'); await pass(60000); return told;")
    assert told == ["webrtc_offer", "17 s", "unanswered"]


async def test_typed_words_that_bring_no_word_of_the_server_are_sent_over_a_new_websocket(page: Chromium) -> None:
    """After 5 s. A server that lives and does not acknowledge is left in peace longer each time."""
    counts, sent = await connection_alone(
        page,
        "sockets[0].welcomes(); connection.type('hello'); await pass(4000); connection.type('again');"
        "await pass(999); const counts = [sockets.length]; await pass(1); counts.push(sockets.length);"
        "sockets[1].welcomes(); await pass(9999); counts.push(sockets.length); await pass(1);"
        "counts.push(sockets.length); sockets[2].welcomes();"
        "for (const id of [...connection.unacknowledged.keys()]) sockets[2].says({ type: 'ack', message_id: id });"
        "await pass(60000); return [[...counts, sockets.length], sockets.map(({ sent }) => sent)];",
    )
    assert counts == [1, 2, 2, 3, 3]
    assert sent == [["hello", "again"]] * 3


@pytest.mark.parametrize("code", ["not_allowed", "turn_limit"])
async def test_typed_words_that_the_server_refuses_are_not_sent_again(page: Chromium, code: str) -> None:
    """It acknowledges none of them. The user reads why, and says them again where that helps."""
    counts, waiting = await connection_alone(
        page,
        "sockets[0].welcomes(); connection.type('hello');"
        f"sockets[0].says({{ type: 'error', code: '{code}', message: 'no' }}); await pass(60000);"
        "return [sockets.length, connection.unacknowledged.size];",
    )
    assert (counts, waiting) == (1, 0)


async def test_a_websocket_over_which_the_server_speaks_is_kept(page: Chromium) -> None:
    """Words may wait there for their turn."""
    counts = await connection_alone(
        page,
        "sockets[0].welcomes(); connection.type('hello'); const counts = [];"
        "for (const ms of [4000, 4000, 5000]) {"
        " sockets[0].says({ type: 'log', line: '' }); await pass(ms); counts.push(sockets.length); } return counts;",
    )
    assert counts == [1, 1, 2]


async def test_a_browser_that_has_a_network_again_connects_at_once(page: Chromium) -> None:
    """In place of a WebSocket that is open or connecting, where it went to; but not after the user has hung up."""
    counts, urls, sent = await connection_alone(
        page,
        "const online = () => { window.dispatchEvent(new Event('online')); return sockets.length; };"
        "sockets[0].welcomes(); sockets[0].says({ type: 'moved', address: 'http://127.0.0.2' });"
        "const counts = [online()];"
        "counts.push(online()); sockets[2].welcomes(); connection.hangUp(); counts.push(online());"
        "await pass(60000); counts.push(online()); return [counts, sockets.map(({ url }) => url), sockets[2].sent];",
    )
    assert counts == [2, 3, 3, 3]
    assert [url.partition("?")[0] for url in urls[1:]] == ["ws://127.0.0.2/orchestrate"] * 2
    assert sent == ["goodbye"]
