"""Decides which network addresses a peer connection uses, one connection at a time."""

from typing import Any

from aiortc import RTCConfiguration, RTCPeerConnection

from orchestrator.media.aiortc_private import ice_connections


def peer_connection() -> RTCPeerConnection:
    """One that asks no server where it is: aiortc's own default would call a public STUN server."""
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


def restrict_host_addresses(peer: RTCPeerConnection, addresses: tuple[str, ...]) -> None:
    """Make this connection gather candidates on `addresses` alone, loopback included; empty changes nothing.

    Call once its transceivers exist and before the local description is set. aioice asks the system for
    addresses and skips loopback; standing before the one method that takes them keeps the choice per connection,
    where patching the module would change every connection of the process.
    """
    if not addresses:
        return
    for connection in ice_connections(peer):
        connection.get_component_candidates = _gather_on(list(addresses), connection.get_component_candidates)


def _gather_on(allowed: list[str], gather: Any) -> Any:
    async def gather_candidates(component: int, addresses: list[str], timeout: int = 5) -> Any:  # noqa: ASYNC109
        del addresses  # what the system has; the setting knows better
        return await gather(component=component, addresses=allowed, timeout=timeout)

    return gather_candidates


def without_mdns_candidates(sdp: str) -> str:
    """The description without candidates named `….local`.

    Browsers hide their addresses behind such names until the user allows the microphone. Looking one up takes
    multicast and holds the answer up for a second where there is none; the browser's own checks find us anyway.
    Without them the list of candidates is open again, so its end mark goes as well.
    """
    lines = sdp.splitlines()
    kept = [line for line in lines if not (line.startswith("a=candidate:") and ".local " in line)]
    if len(kept) == len(lines):
        return sdp
    return "".join(f"{line}\r\n" for line in kept if line != "a=end-of-candidates")
