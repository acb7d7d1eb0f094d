"""Every place where we reach past the public interface of aiortc and aioice, so that one test can guard them all.

The versions are pinned in pyproject.toml. Where an attribute is gone, these raise AiortcChangedError: setting or
reading another in its stead would fail silently, as delay, as clients that never confirm, as calls without a bound.
"""

import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCRtpSender, RTCRtpTransceiver, rtcrtpreceiver
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtp import AnyRtcpPacket, RtcpByePacket
from OpenSSL import SSL
from pylibsrtp import Error as SrtpError

_JITTER_BUFFER = "_RTCRtpReceiver__jitter_buffer"
_HANDLE_RTCP = "_handle_rtcp_packet"
_STOP_DECODER = "_RTCRtpReceiver__stop_decoder"
_LONGEST_RECORD = 1_500
_RTP_TIMESTAMP = "_RTCRtpSender__rtp_timestamp"
_BY_SOURCE = tuple(f"_RTCRtpReceiver__{name}" for name in ("active_ssrc", "remote_streams", "lsr", "lsr_time"))


class AiortcChangedError(RuntimeError):
    """The installed aiortc keeps its internals elsewhere; the pinned version in pyproject.toml is the cure."""


class _EndsWithTheProcess(threading.Thread):
    """A thread that does not keep the process from ending."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how, daemon=True)


def _existing(owner: object, name: str) -> Any:
    if not hasattr(owner, name):
        raise AiortcChangedError(f"aiortc's {type(owner).__name__} has no {name} any more")
    return getattr(owner, name)


_existing(rtcrtpreceiver, "threading")
setattr(rtcrtpreceiver, "threading", SimpleNamespace(Thread=_EndsWithTheProcess, Event=threading.Event))  # noqa: B010
"""aiortc starts a decoder's thread for each call, which ends with the call's receiver: one call that does not end would
keep the process for ever. It gets nothing to decode (jitter_buffer.py).
"""


def require(owner: object, *names: str) -> None:
    """Raise AiortcChangedError where one of these is gone."""
    for name in names:
        _existing(owner, name)


def override(owner: object, name: str, wrap: Callable[[Any], Any]) -> None:
    """Put `wrap(method)` in the place of a method of one object."""
    setattr(owner, name, wrap(_existing(owner, name)))


def replace_jitter_buffer(receiver: RTCRtpReceiver, buffer: object) -> None:
    """Call before media flows: what the old buffer holds is lost."""
    _existing(receiver, _JITTER_BUFFER)
    setattr(receiver, _JITTER_BUFFER, buffer)


def outlive_goodbyes(receiver: RTCRtpReceiver, on_goodbye: Callable[[], None]) -> None:
    """Keep hearing after an RTCP BYE: aiortc ends the track for good at the first, though the peer may send again, by
    the same source or by another one.
    """
    handle = _existing(receiver, _HANDLE_RTCP)
    _existing(receiver, _STOP_DECODER)  # what it does with a BYE

    async def handle_but_goodbyes(packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpByePacket):
            on_goodbye()
        else:
            await handle(packet)

    setattr(receiver, _HANDLE_RTCP, handle_but_goodbyes)


def drain_records(transport: RTCDtlsTransport) -> None:
    """Read all DTLS records of a datagram. Of those after the handshake aiortc reads one, and leaves the others in
    OpenSSL's memory for the rest of the call.
    """
    came_in = b""

    def noting(receive: Callable[[], Awaitable[bytes]]) -> Callable[[], Awaitable[bytes]]:
        async def receive_noting() -> bytes:
            nonlocal came_in
            came_in = await receive()
            return came_in

        return receive_noting

    def draining(receive_next: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def receive_and_drain() -> None:
            await receive_next()
            if came_in and 19 < came_in[0] < 64 and transport.encrypted:
                _drop_records(_existing(transport, "_ssl"))

        return receive_and_drain

    override(transport.transport, "_recv", noting)
    override(transport, "_recv_next", draining)


def _drop_records(connection: SSL.Connection) -> None:
    try:
        while connection.recv(_LONGEST_RECORD):
            pass
    except SSL.ZeroReturnError as closed:  # as aiortc says it, for a record that it has read
        raise ConnectionError from closed
    except SSL.Error:  # no record is left
        pass


def last_rtp_timestamp(sender: RTCRtpSender) -> int:
    """Of the newest packet on the wire: aiortc adds a random origin to our timestamps and keeps it to itself."""
    return int(_existing(sender, _RTP_TIMESTAMP))


def ice_connections(peer: RTCPeerConnection) -> list[Any]:
    """The aioice connections of a peer, one per transport."""
    gatherers = (transceiver.receiver.transport.transport.iceGatherer for transceiver in peer.getTransceivers())
    return [_existing(gatherer, "_connection") for gatherer in gatherers]


def forget_source(receiver: RTCRtpReceiver, ssrc: int) -> None:
    """Drop what aiortc and libsrtp keep of a sender: neither ever forgets one by itself."""
    for name in _BY_SOURCE:
        _existing(receiver, name).pop(ssrc, None)
    transport = receiver.transport
    _existing(_existing(transport, "_rtp_router"), "ssrc_table").pop(ssrc, None)
    try:
        _existing(transport, "_rx_srtp").remove_stream(ssrc)
    except SrtpError:
        return  # it sent nothing that libsrtp accepted


def start_no_more(transceiver: RTCRtpTransceiver) -> None:
    """Call before RTCPeerConnection.close(): a handshake that ends meanwhile would start tasks and a thread that nobody
    stops any more.
    """

    async def start_nothing(_: object) -> None:
        return

    override(transceiver.sender, "send", lambda _: start_nothing)
    override(transceiver.receiver, "receive", lambda _: start_nothing)


async def stop_receiver(receiver: RTCRtpReceiver, bounded: Callable[[str, Awaitable[None]], Awaitable[bool]]) -> None:
    """End the thread, the tasks and the sockets that are left when RTCPeerConnection.close() does not end."""
    _existing(receiver, _STOP_DECODER)()
    transport: RTCDtlsTransport = receiver.transport
    await bounded("DTLS transport", transport.stop())
    await bounded("ICE transport", transport.transport.stop())
    await bounded("ICE connection", _existing(transport.transport, "_connection").close())
