"""Which addresses and ports a call uses: a range behind a firewall, a public address behind a NAT."""

import re

import pytest

from orchestrator.media.ice import NoPortError, choose_addresses, peer_connection
from orchestrator.media.settings import MediaSettings

CANDIDATE = re.compile(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+) typ host")


async def candidates(settings: MediaSettings) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Address and port of each candidate: as callers get them, and as the sockets are bound."""
    peer = peer_connection()
    try:
        peer.addTransceiver("audio", direction="sendrecv")
        choose_addresses(peer, settings)
        await peer.setLocalDescription(await peer.createOffer())
        named = [(host, int(port)) for host, port in CANDIDATE.findall(peer.localDescription.sdp)]
        (gatherer,) = {one.receiver.transport.transport.iceGatherer for one in peer.getTransceivers()}
        bound = [one.transport.get_extra_info("sockname")[:2] for one in gatherer._connection._protocols]
        return named, bound
    finally:
        await peer.close()


async def test_calls_use_the_ports_of_the_range() -> None:
    settings = MediaSettings(ice_host_addresses=("127.0.0.1",), udp_ports=(42_100, 42_103))
    named, bound = await candidates(settings)
    assert named == bound
    assert named[0][0] == "127.0.0.1"
    assert 42_100 <= named[0][1] <= 42_103


async def test_a_range_without_a_free_port_is_said() -> None:
    """Also the port of a call that has ended is free again."""
    settings = MediaSettings(ice_host_addresses=("127.0.0.1",), udp_ports=(42_110, 42_110))
    await candidates(settings)
    peer = peer_connection()
    peer.addTransceiver("audio", direction="sendrecv")
    choose_addresses(peer, settings)
    await peer.setLocalDescription(await peer.createOffer())
    with pytest.raises(NoPortError, match=r"no UDP port of 42110-42110 is free on 127\.0\.0\.1"):
        await candidates(settings)
    await peer.close()


@pytest.mark.parametrize("ports", [None, (42_120, 42_129)])
async def test_callers_get_the_public_address(ports: tuple[int, int] | None) -> None:
    """With the same port, as a 1:1 NAT maps it; the socket is on the local address."""
    settings = MediaSettings(ice_host_addresses=("127.0.0.1",), public_address="203.0.113.7", udp_ports=ports)
    named, bound = await candidates(settings)
    assert [host for host, _ in named] == ["203.0.113.7"]
    assert [host for host, _ in bound] == ["127.0.0.1"]
    assert named[0][1] == bound[0][1]
