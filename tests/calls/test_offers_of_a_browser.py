"""Offers as Chromium makes them when a page asks for more than a call needs: the call works, the rest is rejected."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.browser.chromium import Chromium, chromium_path
from tests.calls.service import Service
from tests.cli.service import QUIET

pytestmark = [
    pytest.mark.browser,
    pytest.mark.calls,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        chromium_path() is None, reason="no Chromium on this machine (set ORCH_CHROMIUM, or install it)"
    ),
]

AUDIO = "connection.addTransceiver(track, {direction: 'sendrecv'});"
VIDEO = "connection.addTransceiver('video');"
DATA = "connection.createDataChannel('unwanted');"

SHAPES = {
    "audio": ("{}", AUDIO),
    "audio, video, data": ("{}", AUDIO + VIDEO + DATA),
    "video first": ("{}", VIDEO + AUDIO),
    "data first": ("{}", DATA + AUDIO),
    "two microphones": ("{}", AUDIO + "connection.addTransceiver('audio');"),
    "max-bundle": ("{bundlePolicy: 'max-bundle'}", AUDIO + VIDEO + DATA),
    "max-bundle, video first": ("{bundlePolicy: 'max-bundle'}", VIDEO + AUDIO + DATA),
    "max-bundle, data first": ("{bundlePolicy: 'max-bundle'}", DATA + AUDIO + VIDEO),
    "max-compat": ("{bundlePolicy: 'max-compat'}", AUDIO + VIDEO),
    "a listener": ("{}", "connection.addTransceiver('audio', {direction: 'recvonly'});" + VIDEO),
}

CALL = """(async () => {
    const stream = await navigator.mediaDevices.getUserMedia({audio: true});
    const [track] = stream.getAudioTracks();
    const connection = new RTCPeerConnection(CONFIGURATION);
    const socket = new WebSocket(location.origin.replace('http', 'ws') + '/orchestrate');
    await new Promise((opened) => socket.onopen = opened);
    TRANSCEIVERS
    await connection.setLocalDescription();
    const answer = await new Promise((answered, refused) => {
        socket.onmessage = ({data}) => {
            const message = JSON.parse(data);
            if (message.type === 'webrtc_answer') answered(message.sdp);
            if (message.type === 'error') refused(new Error(message.message));
        };
        socket.send(JSON.stringify({type: 'webrtc_offer', sdp: connection.localDescription.sdp}));
    });
    await connection.setRemoteDescription({type: 'answer', sdp: answer});
    const heard = async () => {
        for (const stat of (await connection.getStats()).values()) {
            if (stat.type === 'inbound-rtp' && stat.kind === 'audio' && stat.packetsReceived > 4) return true;
        }
        return false;
    };
    const until = performance.now() + 10000;
    while (!(await heard()) && performance.now() < until) await new Promise((soon) => setTimeout(soon, 50));
    const result = {
        state: connection.connectionState,
        heard: await heard(),
        offer: connection.localDescription.sdp.match(/^m=.*/gm),
        answer: answer.match(/^m=.*/gm),
        directions: connection.getTransceivers().map((one) => one.currentDirection),
    };
    socket.send(JSON.stringify({type: 'goodbye'}));
    connection.close();
    return JSON.stringify(result);
})()"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chromium]:
    folder: Path = tmp_path_factory.mktemp("offers")
    async with Service(folder / "data", **QUIET) as service, Chromium() as browser:
        await browser.goto(service.url)
        yield browser


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_call_works_and_all_else_is_rejected(page: Chromium, shape: str) -> None:
    """As many m= lines as were offered, in their order. Audio comes over one; only it has a port, and the section that
    leads the bundle, over whose transport browsers insist to send. A resting agent sends five packets, then few.
    """
    configuration, transceivers = SHAPES[shape]
    script = CALL.replace("CONFIGURATION", configuration).replace("TRANSCEIVERS", transceivers)
    result: dict[str, Any] = json.loads(await page.evaluate(script))
    kinds = [line.split()[0] for line in result["offer"]]
    assert [line.split()[0] for line in result["answer"]] == kinds
    taken = [index for index, line in enumerate(result["answer"]) if line.split()[1] != "0"]
    assert taken == sorted({0, kinds.index("m=audio")})
    used = [one for one in result["directions"] if one not in (None, "inactive", "stopped")]
    assert used == ["recvonly" if shape == "a listener" else "sendrecv"]
    assert result["state"] == "connected"
    assert result["heard"]
