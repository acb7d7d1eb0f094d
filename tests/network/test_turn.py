"""A call through TURN alone: caller and server have no route to each other, only a machine with nginx and coturn."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aioice.stun import TransactionFailed
from aioice.turn import TurnClientUdpProtocol
from aiortc import RTCIceServer

from orchestrator.gateway import ice_servers
from orchestrator.gateway.ice_servers import IceServers
from orchestrator.gateway.messages import IceServer
from tests.calls.service import Caller, Service
from tests.gateway.test_tls import write_certificate
from tests.media.peer import CallPeer
from tests.media.speech import speak
from tests.network.daemons import coturn, missing, nginx
from tests.network.namespaces import MIDDLE, MIDDLE_INSIDE, SERVER, Network

pytestmark = [
    pytest.mark.calls,
    pytest.mark.skipif(bool(missing("nginx", "turnserver")), reason=missing("nginx", "turnserver")),
]

PORT, TURN_PORT, SECRET = 8080, 3478, "0123456789abcdef"
TURN = f"turn:{MIDDLE}:{TURN_PORT}"


@pytest.fixture
async def apart(network: Network, reachable: dict[str, str], tmp_path: Path) -> AsyncIterator[Caller]:
    """A caller in a conversation, without a call yet, over nginx and coturn as docs/deploy.md configures them."""
    trusted = write_certificate(tmp_path, 1, MIDDLE)
    behind_nginx = {
        "calls.example;": f"{MIDDLE};",
        "127.0.0.1:8080": f"{SERVER}:{PORT}",
        "/etc/ssl/calls.example.pem": f"{tmp_path}/cert.pem",
        "/etc/ssl/calls.example.key": f"{tmp_path}/key.pem",
    }
    settings = {
        "ORCH_HOST": SERVER,
        "ORCH_ADDRESS": f"https://{MIDDLE}",
        "ORCH_TRUSTED_PROXIES": MIDDLE_INSIDE,
        "ORCH_ICE_SERVERS": f"{TURN} {TURN}?transport=tcp",
        "ORCH_TURN_SECRET": SECRET,
    }
    async with AsyncExitStack() as stack:
        with network.inside("server"):
            service = await stack.enter_async_context(Service(tmp_path / "data", port=PORT, **reachable, **settings))
        with network.inside("middle"):
            await stack.enter_async_context(nginx(tmp_path / "nginx", behind_nginx, MIDDLE, 443))
            await stack.enter_async_context(coturn(tmp_path / "coturn", {"change-me": SECRET}, MIDDLE, TURN_PORT))
        with network.inside("caller"):
            service.url = f"https://{MIDDLE}"
            yield await stack.enter_async_context(Caller(service, voice=False, trusted=trusted))


async def test_a_call_through_turn_alone(apart: Caller) -> None:
    """The question is understood, the answer is heard: over a relay that is reached by UDP, then by TCP."""
    with pytest.raises(OSError, match="unreachable"):
        socket.create_connection((SERVER, PORT), timeout=2)
    (turn,) = apart.session["ice_servers"]
    for ending in ("", "?transport=tcp"):
        url = f"{TURN}{ending}"
        assert url in turn["urls"]
        peer = CallPeer(relay=RTCIceServer(url, turn["username"], turn["credential"]))
        await apart.call(peer)
        await peer.say(speak("what can you do"))
        assert (await apart.hears("transcript", is_final=True))["text"] == "what can you do"
        await apart.hears("playback_start")
        await peer.hears_agent(within_s=10)
        await apart.send(type="barge_in")
        await apart.hears("phase", phase="LISTENING", reason="")
        await peer.close()


async def test_the_relay_is_for_callers_and_leads_to_nodes_alone(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expired credentials and those of another secret get no relay; a caller's reaches the node, no other address."""
    with network.inside("middle"):
        async with coturn(tmp_path / "coturn", {"change-me": SECRET}, MIDDLE, TURN_PORT):
            with network.inside("caller"):
                (good,) = IceServers([TURN], SECRET).of("auto_session_1")
                (of_others,) = IceServers([TURN], "another secret").of("auto_session_1")
                monkeypatch.setattr(ice_servers, "LIFE_S", -10)
                (expired,) = IceServers([TURN], SECRET).of("auto_session_1")
                for refused in (of_others, expired):
                    with pytest.raises(TransactionFailed, match="401"):
                        await relay(refused)
                reached = await relay(good)
                await reached.channel_bind(0x4000, (SERVER, PORT))
                for number, elsewhere in enumerate((MIDDLE, MIDDLE_INSIDE, "127.0.0.1", "10.77.0.3"), 0x4001):
                    with pytest.raises(TransactionFailed, match="403"):
                        await reached.channel_bind(number, (elsewhere, PORT))
                await reached.delete()


async def relay(server: IceServer) -> Any:
    """A relay of the TURN server. Raises TransactionFailed."""
    _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: TurnClientUdpProtocol((MIDDLE, TURN_PORT), server.username, server.credential, 600, 500),
        remote_addr=(MIDDLE, TURN_PORT),
    )
    try:
        await protocol.connect()
    except TransactionFailed:
        protocol.transport.close()
        raise
    return protocol
