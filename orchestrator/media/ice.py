"""Decides which network addresses and UDP ports each peer connection uses, and which address it names to callers."""

import asyncio
import random
import socket
from collections.abc import Iterator
from copy import copy
from typing import Any

from aioice import Candidate
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection

from orchestrator.media.aiortc_private import ice_connections
from orchestrator.media.settings import MediaSettings
from orchestrator.media.turn_credentials import turn_credentials

BUFFER_BYTES = 262_144
DISCARD_PORT = 9
RELAY_S = 1.5
"""How long a TURN server may take to give a relay. The answer to a caller's offer waits for it."""


class NoPortError(OSError):
    """No port of the range is free."""


def peer_connection(settings: MediaSettings = MediaSettings(), session_id: str = "") -> RTCPeerConnection:  # noqa: B008
    """Create a peer connection without STUN servers: aiortc's default would ask a public one for its address. That of a
    session has a relay, where the settings name one.
    """
    relays = []
    if settings.relay and session_id:
        username, credential = turn_credentials(settings.turn_secret, session_id)
        relays.append(RTCIceServer(settings.relay, username, credential))
    return RTCPeerConnection(RTCConfiguration(iceServers=relays))


def let_relays_in(peer: RTCPeerConnection) -> bool:
    """Let the TURN server's own address send to the relays of this connection: callers come through relays of the same
    server. Call after the candidates are gathered. Returns whether there is a relay.

    TURN drops what comes from an address that nothing was sent to. A caller's other addresses stay unknown.
    """
    relays = [one for connection in ice_connections(peer) for one in relays_of(connection)]
    for relay in relays:
        relay.transport.sendto(b"", (relay.local_candidate.host, DISCARD_PORT))
    return bool(relays)


def _give_back(connection: Any) -> None:
    for relay in relays_of(connection):
        relay.transport.close()


def relays_of(connection: Any) -> list[Any]:
    """The sockets of an aioice connection that are relays of a TURN server."""
    return [one for one in connection._protocols if one.local_candidate.type == "relay"]


def choose_addresses(peer: RTCPeerConnection, settings: MediaSettings) -> None:
    """Make this connection gather candidates on the addresses and ports of the settings, and name the public address.

    Call after its transceivers exist and before the local description is set. aioice asks the system for addresses,
    skips loopback, and binds any port. Wrapping one method of this connection keeps the choice per connection; patching
    the module would change every connection of the process.
    """
    if settings.ice_host_addresses or settings.udp_ports or settings.public_address or settings.relay:
        for connection in ice_connections(peer):
            connection.get_component_candidates = _gather_on(connection, settings)


def _gather_on(connection: Any, settings: MediaSettings) -> Any:
    gather, allowed = connection.get_component_candidates, list(settings.ice_host_addresses)

    async def gather_candidates(component: int, addresses: list[str], timeout: float = RELAY_S) -> Any:  # noqa: ASYNC109
        chosen = allowed or addresses
        found = []
        if settings.udp_ports is not None:
            found = [await _bound(connection, component, one, settings.udp_ports) for one in chosen]
            chosen = []  # a relay is left to gather
        gathering = asyncio.ensure_future(gather(component=component, addresses=chosen, timeout=timeout))
        try:
            found += await asyncio.shield(gathering)
        except asyncio.CancelledError:  # aioice goes on, and would keep a relay that comes for as long as it may
            gathering.add_done_callback(lambda _: _give_back(connection))
            raise
        return [_named(one, settings.public_address) for one in found]

    return gather_candidates


async def _bound(connection: Any, component: int, address: str, ports: tuple[int, int]) -> Candidate:
    """A host candidate on a free port of the range, as aioice makes it on any port. Raises NoPortError."""
    loop = asyncio.get_running_loop()
    for port in _in_random_order(*ports):
        try:
            transport, protocol = await loop.create_datagram_endpoint(
                lambda: StunProtocol(connection), local_addr=(address, port)
            )
        except OSError:  # in use
            continue
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", address),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "host"),
            host=address,
            port=port,
            type="host",
        )
        connection._protocols.append(protocol)
        return protocol.local_candidate
    raise NoPortError(f"no UDP port of {ports[0]}-{ports[1]} is free on {address}")


def _in_random_order(first: int, last: int) -> Iterator[int]:
    """All ports, from a random one on: a port that was just given up is not used again at once."""
    start = random.randint(first, last)
    yield from range(start, last + 1)
    yield from range(first, start)


def _named(candidate: Candidate, public_address: str) -> Candidate:
    """The candidate as callers get it. The connection keeps the local one: a NAT maps addresses, not ports."""
    if not public_address or candidate.type != "host" or (":" in candidate.host) != (":" in public_address):
        return candidate
    named = copy(candidate)
    named.host = public_address
    return named
