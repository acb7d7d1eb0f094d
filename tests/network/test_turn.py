"""A call through TURN alone: caller and server have no route to each other, only a machine with nginx and coturn."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aioice.stun import TransactionFailed
from aioice.turn import TurnClientUdpProtocol
from aiortc import RTCIceServer

from orchestrator.gateway.ice_servers import IceServers
from orchestrator.gateway.messages import IceServer
from orchestrator.media import turn_credentials
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

PORT, TURN_PORT, TLS_PORT, SECRET = 8080, 3478, 5349, "0123456789abcdef"
TURN = f"turn:{MIDDLE}:{TURN_PORT}"


@pytest.fixture
async def apart(
    network: Network, reachable: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Caller]:
    """A caller in a conversation, without a call yet, over nginx and coturn as docs/deploy.md configures them. A
    parameter: the node's own relay, while its UDP is shut.
    """
    own_relay: str = getattr(request, "param", "")
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
    (tmp_path / "turns").mkdir()
    write_certificate(tmp_path / "turns", 2, MIDDLE_INSIDE)
    if own_relay:
        settings |= {"ORCH_RELAY": own_relay, "SSL_CERT_FILE": f"{tmp_path}/turns/cert.pem"}
    relays = {"change-me": SECRET} | (
        {
            "allowed-peer-ip=10.77.0.2": f"allowed-peer-ip={MIDDLE_INSIDE}",
            "# tls-listening-port=5349": f"tls-listening-port={TLS_PORT}",
            "# cert=/etc/ssl/calls.example.pem": f"cert={tmp_path}/turns/cert.pem",
            "# pkey=/etc/ssl/calls.example.key": f"pkey={tmp_path}/turns/key.pem",
        }
        if own_relay
        else {}
    )
    async with AsyncExitStack() as stack:
        with network.inside("server"):
            service = await stack.enter_async_context(Service(tmp_path / "data", port=PORT, **reachable, **settings))
        with network.inside("middle"):
            await stack.enter_async_context(nginx(tmp_path / "nginx", behind_nginx, MIDDLE, 443))
            await stack.enter_async_context(coturn(tmp_path / "coturn", relays, MIDDLE, TURN_PORT))
        if own_relay:
            stack.enter_context(shut(network))
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


@contextmanager
def shut(network: Network) -> Iterator[None]:
    """The server's UDP is shut: nothing leaves, and nothing comes in."""
    for chain in ("INPUT", "OUTPUT"):
        network.run("server", f"iptables -I {chain} -p udp -j DROP")
    try:
        yield
    finally:
        for chain in ("INPUT", "OUTPUT"):
            network.run("server", f"iptables -D {chain} -p udp -j DROP")


@pytest.mark.parametrize(
    "apart", [f"turn:{MIDDLE_INSIDE}:{TURN_PORT}?transport=tcp", f"turns:{MIDDLE_INSIDE}:{TLS_PORT}"], indirect=True
)
async def test_a_node_without_udp_is_reached_through_its_own_relay(apart: Caller) -> None:
    """By TCP and by TLS. The caller comes from a relay of the same server, the only address that is let in."""
    (turn,) = apart.session["ice_servers"]
    peer = CallPeer(relay=RTCIceServer(TURN, turn["username"], turn["credential"]))
    await apart.call(peer)
    assert f" {MIDDLE_INSIDE} " in peer.connection.remoteDescription.sdp  # the node's relay
    assert SECRET not in peer.connection.remoteDescription.sdp
    await peer.say(speak("what can you do"))
    assert (await apart.hears("transcript", is_final=True))["text"] == "what can you do"
    await apart.hears("playback_start")
    await peer.hears_agent(within_s=10)
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
                monkeypatch.setattr(turn_credentials, "LIFE_S", -10)
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
