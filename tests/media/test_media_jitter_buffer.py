"""The replacement of aiortc's jitter buffer: no delay, no lag after a loss, and still the right thing to do."""

import asyncio
from collections import Counter

import pytest
from aiortc import RTCPeerConnection
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtp import RtpPacket
from pylibsrtp import Session

from orchestrator.media.aiortc_private import (
    AiortcChangedError,
    forget_source,
    ice_connections,
    last_rtp_timestamp,
    outlive_goodbyes,
    replace_jitter_buffer,
    start_no_more,
)
from orchestrator.media.datagrams import filter_datagrams
from orchestrator.media.jitter_buffer import ImmediateBuffer
from orchestrator.media.sources import bound_sources
from tests.media.stubs import connect


def packet(number: int, ssrc: int = 1) -> RtpPacket:
    made = RtpPacket(sequence_number=number % 65536, timestamp=number * 960, payload_type=96, ssrc=ssrc)
    made._data = b"opus %d" % number
    return made


def passed(*packets: RtpPacket) -> list[tuple[bytes, int]]:
    """The packets that came out, in order, and where each begins, in packets after the first."""
    heard: list[tuple[bytes, int]] = []
    buffer = ImmediateBuffer(lambda data, position: heard.append((data, position // 960)))
    assert {buffer.add(one) for one in packets} == {(False, None)}
    return heard


def released(numbers: list[int]) -> list[int]:
    """The numbers of the packets that came out, by their places."""
    return [numbers[0] + place for _, place in passed(*map(packet, numbers))]


def test_every_packet_comes_out_at_once():
    """Packet n is released by the arrival of packet n, across the wrap of the sequence numbers too."""
    numbers = list(range(65_530, 65_550))
    assert released(numbers) == numbers


def test_a_lost_packet_leaves_a_hole_and_no_lag():
    """After a loss the next packet comes out at once."""
    numbers = [*range(100, 110), *range(112, 130)]
    assert released(numbers) == numbers


def test_late_and_repeated_packets_are_dropped():
    """Order is kept: the decoder never sees the past again."""
    assert released([10, 11, 13, 12, 13, 14]) == [10, 11, 13, 14]


@pytest.mark.parametrize("late", [[120], [120, 121, 122]])
def test_packets_that_come_seconds_late_are_dropped(late):
    """Alone or in a row: they leave no hole of silence in the speech that has gone on, and are not heard in it."""
    numbers = [*range(100, 120), *range(123, 300)]
    assert released([*numbers, *late, 300, 301]) == [*numbers, 300, 301]


@pytest.mark.parametrize(("number", "ssrc"), [(500, 1), (20_000, 2)])
def test_a_sender_that_starts_over_is_heard_at_once(number, ssrc):
    """A jump far back, or another source, is a new stream and not a straggler."""
    assert [data for data, _ in passed(packet(20_000), packet(number, ssrc))] == [b"opus 20000", b"opus %d" % number]


def test_a_sender_that_numbers_again_and_keeps_its_clock_is_heard_at_once():
    """Its sequence numbers jump back, its timestamps go on."""
    again = packet(20_001)
    again.sequence_number = 500
    assert passed(packet(20_000), again) == [(b"opus 20000", 0), (b"opus 20001", 1)]


def test_a_position_goes_on_across_the_wrap_of_the_timestamps_and_to_another_source():
    late = [packet(number) for number in (1, 2, 3)]
    for one, timestamp in zip(late, ((1 << 32) - 960, 0, 960), strict=True):
        one.timestamp = timestamp
    assert [place for _, place in passed(*late, packet(7_000, ssrc=2), packet(7_001, ssrc=2))] == [0, 1, 2, 2, 3]


def test_the_buffer_of_aiortc_still_has_to_be_replaced():
    """It lags after one loss. When this fails, aiortc was mended and jitter_buffer.py can go."""
    numbers = [*range(100, 120), *range(121, 160)]
    buffer = JitterBuffer(capacity=16, prefetch=4)
    frames = [frame for number in numbers if (frame := buffer.add(packet(number))[1]) is not None]
    assert frames[-1].timestamp // 960 < 150


async def test_the_private_places_of_aiortc_are_where_we_reach():
    """Fails when aiortc's internals move: all of our reaching is done here."""
    peer = RTCPeerConnection()
    transceiver = peer.addTransceiver("audio")
    stock = transceiver.receiver._RTCRtpReceiver__jitter_buffer
    assert isinstance(stock, JitterBuffer)
    buffer = ImmediateBuffer(print)
    replace_jitter_buffer(transceiver.receiver, buffer)
    assert transceiver.receiver._RTCRtpReceiver__jitter_buffer is buffer
    outlive_goodbyes(transceiver.receiver, lambda: None)
    assert last_rtp_timestamp(transceiver.sender) == 0
    (connection,) = ice_connections(peer)
    assert callable(connection.get_component_candidates)
    bound_sources(transceiver, Counter())
    (filtered,) = filter_datagrams(peer, Counter())
    await peer.setLocalDescription(await peer.createOffer())
    filtered.watch_sockets()
    transceiver.receiver.transport._rx_srtp = Session()
    forget_source(transceiver.receiver, 1)
    start_no_more(transceiver)
    await peer.close()


async def test_what_we_override_is_what_aiortc_calls():
    """Names are not enough: in a call, each of our places is passed."""
    call = await connect()
    receiver = call.handler._transceiver.receiver
    (connection,) = ice_connections(call.handler._peer)
    assert all(is_ours(protocol.datagram_received) for protocol in connection._protocols)
    assert all(is_ours(protocol.request) for protocol in connection._protocols)
    for owner, name in (
        (receiver.transport.transport, "_recv"),
        (receiver.transport, "_handle_rtp_data"),
        (receiver.transport, "_handle_rtcp_data"),
        (receiver, "_send_rtcp"),
        (call.handler._transceiver.sender, "_handle_rtcp_packet"),
    ):
        ours = getattr(owner, name)
        assert is_ours(ours)
        passed = asyncio.Event()
        setattr(owner, name, noting(ours, passed))
        async with asyncio.timeout(5):
            await passed.wait()
    await call.handler.close()
    await call.peer.close()


def noting(method, passed: asyncio.Event):
    async def noted(*args, **kwargs):
        passed.set()
        return await method(*args, **kwargs)

    return noted


def is_ours(method) -> bool:
    return getattr(method, "func", method).__module__.startswith("orchestrator.")


def test_internals_that_moved_are_an_error_in_words():
    """Replacing what is not there would only seem to work."""
    with pytest.raises(AiortcChangedError, match="__jitter_buffer"):
        replace_jitter_buffer(object(), ImmediateBuffer(print))
