"""Bounds the senders that aiortc remembers for a call, and survives RTP and RTCP packets that aiortc fails on."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiortc import RTCRtpReceiver, RTCRtpTransceiver
from aiortc.rtp import AnyRtcpPacket, RtcpRrPacket, RtcpSrPacket

from orchestrator.media.aiortc_private import forget_source, override

MOST_SOURCES = 16
"""Senders (SSRCs) of one call; a browser has one at a time. An RTCP report has room for 31."""
MOST_REPORTS = 16
"""RTCP packets in one datagram: browsers put in five at most, and a datagram has room for 370."""

_RTP_SSRC = slice(8, 12)
_RTCP_SSRC = slice(4, 8)


class Sources:
    """The senders of one call, the latest last. A new sender beyond MOST_SOURCES replaces the longest silent."""

    def __init__(self, receiver: RTCRtpReceiver) -> None:
        self._receiver = receiver
        self._known: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._known)

    def note(self, ssrc: int) -> None:
        self._known.pop(ssrc, None)
        self._known[ssrc] = None
        if len(self._known) > MOST_SOURCES:
            oldest = next(iter(self._known))
            del self._known[oldest]
            forget_source(self._receiver, oldest)


def bound_sources(transceiver: RTCRtpTransceiver, dropped: Counter[str]) -> Sources:
    """Install the limits on a transceiver. Call before media flows."""
    sources = Sources(transceiver.receiver)
    transport = transceiver.receiver.transport
    override(transport, "_handle_rtp_data", lambda handle: _noting(handle, sources, _RTP_SSRC, dropped))
    override(
        transport, "_handle_rtcp_data", lambda handle: _few(_noting(handle, sources, _RTCP_SSRC, dropped), dropped)
    )
    override(transceiver.sender, "_handle_rtcp_packet", _only_reports)
    override(transceiver.receiver, "_send_rtcp", lambda send: _survives(send, dropped))
    return sources


def _noting(
    handle: Callable[..., Awaitable[None]], sources: Sources, where: slice, dropped: Counter[str]
) -> Callable[..., Awaitable[None]]:
    """Handle an authenticated packet and drop it on an error: the error would end aiortc's reader for good."""

    async def handle_noting(data: bytes, **arguments: Any) -> None:
        sources.note(int.from_bytes(data[where], "big"))
        try:
            await handle(data, **arguments)
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - whatever aiortc trips over came from the caller; it is counted
            dropped["malformed"] += 1

    return handle_noting


def _few(handle: Callable[..., Awaitable[None]], dropped: Counter[str]) -> Callable[[bytes], Awaitable[None]]:
    """Drop a datagram of too many RTCP packets: aiortc would parse and route them all without a pause."""

    async def handle_few(data: bytes) -> None:
        at = count = 0
        while at + 4 <= len(data) and count <= MOST_REPORTS:
            at += 4 + 4 * int.from_bytes(data[at + 2 : at + 4], "big")
            count += 1
        if count > MOST_REPORTS:
            dropped["malformed"] += 1
        else:
            await handle(data)

    return handle_few


def _only_reports(handle: Callable[[AnyRtcpPacket], Awaitable[None]]) -> Callable[[AnyRtcpPacket], Awaitable[None]]:
    """Ignore requests for retransmission: none is negotiated, and one packet could ask for 6,000."""

    async def handle_reports(packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket):
            await handle(packet)

    return handle_reports


def _survives(
    send: Callable[[AnyRtcpPacket], Awaitable[None]], dropped: Counter[str]
) -> Callable[..., Awaitable[None]]:
    """Drop a report that cannot be written, for example with a jitter of more than 32 bits. Its error would end the
    task that sends reports, and RTCRtpReceiver.stop() would wait for that task forever.
    """

    async def send_or_drop(packet: AnyRtcpPacket) -> None:
        try:
            await send(packet)
        except Exception:  # noqa: BLE001 - the numbers in it are the caller's; it is counted
            dropped["reports of ours"] += 1

    return send_or_drop
