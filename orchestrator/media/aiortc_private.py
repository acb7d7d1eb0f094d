"""Every place where we reach past aiortc's public interface, so that one test can guard them all.

The version is pinned in pyproject.toml. Where an attribute is gone, these raise AiortcChangedError: setting or reading
another in its stead would fail silently, as delay, as clients that never confirm, as calls that find no network.
"""

from typing import Any

from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCRtpSender

_JITTER_BUFFER = "_RTCRtpReceiver__jitter_buffer"
_RTP_TIMESTAMP = "_RTCRtpSender__rtp_timestamp"


class AiortcChangedError(RuntimeError):
    """The installed aiortc keeps its internals elsewhere; the pinned version in pyproject.toml is the cure."""


def _existing(owner: object, name: str) -> Any:
    if not hasattr(owner, name):
        raise AiortcChangedError(f"aiortc's {type(owner).__name__} has no {name} any more")
    return getattr(owner, name)


def replace_jitter_buffer(receiver: RTCRtpReceiver, buffer: object) -> None:
    """Call before media flows: what the old buffer holds is lost."""
    _existing(receiver, _JITTER_BUFFER)
    setattr(receiver, _JITTER_BUFFER, buffer)


def last_rtp_timestamp(sender: RTCRtpSender) -> int:
    """Of the newest packet on the wire: aiortc adds a random origin to our timestamps and keeps it to itself."""
    return int(_existing(sender, _RTP_TIMESTAMP))


def ice_connections(peer: RTCPeerConnection) -> list[Any]:
    """The aioice connections of a peer, one per transport."""
    gatherers = (transceiver.receiver.transport.transport.iceGatherer for transceiver in peer.getTransceivers())
    return [_existing(gatherer, "_connection") for gatherer in gatherers]
