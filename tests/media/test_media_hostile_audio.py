"""A caller's own audio, sent as no browser sends it: the call costs what a call costs, and the others do not notice."""

import asyncio
import logging
import time
from itertools import count

import pytest
from aiortc.rtp import (
    RTCP_RTPFB_NACK,
    RtcpByePacket,
    RtcpRtpfbPacket,
    RtpPacket,
)
from OpenSSL import SSL

from orchestrator.media.handler import MOST_GOODBYES
from orchestrator.media.opus import SILENT_FRAME, VoiceEncoder, packet_ms
from orchestrator.media.sources import MOST_REPORTS, MOST_SOURCES
from tests.media.stubs import Call
from tests.media.test_media_connection import say, tone
from tests.media.test_media_strangers import until

FRAME = VoiceEncoder().encode(SILENT_FRAME)


class Wire:
    """Sends RTP packets of our making over a caller's encrypted connection."""

    def __init__(self, call: Call) -> None:
        sender = call.peer.connection.getSenders()[0]
        self.transport = sender.transport
        self.ssrc = sender._ssrc
        self._payload_type = call.peer.connection.getTransceivers()[0]._codecs[0].payloadType

    async def rtp(self, number: int, payload: bytes, *, ssrc: int = 77, timestamp: int | None = None) -> None:
        packet = RtpPacket(
            payload_type=self._payload_type,
            sequence_number=number % (1 << 16),
            timestamp=(number * 960 if timestamp is None else timestamp) % (1 << 32),
            ssrc=ssrc,
        )
        packet.payload = payload
        await self.transport._send_rtp(packet.serialize())


def heard_by(call: Call) -> list[float]:
    """How many seconds of audio the microphone handles, by each frame, holes included."""
    handled: list[float] = []
    activity = call.handler._microphone._activity
    feed = activity.feed

    def noting(pcm: bytes, threshold_rms: float) -> object:
        handled.append(len(pcm) / 32_000)
        return feed(pcm, threshold_rms)

    activity.feed = noting
    return handled


async def longest_wait_s(stop: asyncio.Event) -> float:
    """The longest that the event loop kept somebody waiting who only wanted their turn."""
    longest_s = 0.0
    while not stop.is_set():
        began_s = time.monotonic()
        await asyncio.sleep(0.001)
        longest_s = max(longest_s, time.monotonic() - began_s)
    return longest_s


async def flood(call: Call, seconds: float, **steps: int) -> float:
    """Thirty packets in the time of one; returns how long that took."""
    wire, numbers = Wire(call), count()
    began_s = time.monotonic()
    while time.monotonic() - began_s < seconds:
        for _ in range(15):
            number = next(numbers)
            await wire.rtp(number, FRAME, timestamp=number * steps.get("timestamp_step", 960))
        await asyncio.sleep(0.01)
    return time.monotonic() - began_s


@pytest.mark.parametrize("timestamp_step", [960, 24_000, 48_000 * 59])
async def test_audio_is_handled_at_the_speed_of_the_clock_and_a_second(call: Call, timestamp_step: int) -> None:
    """Thirty times too fast, or with timestamps that claim holes to be filled; the excess is dropped and counted."""
    handled = heard_by(call)
    took_s = await flood(call, 2.0, timestamp_step=timestamp_step)
    assert 0.5 < sum(handled) <= took_s + 1.2
    assert call.handler._dropped["faster than it plays"] + call.handler._dropped["over the rate"] > 100


async def test_after_a_flood_the_caller_is_heard(call: Call, sentence: bytes) -> None:
    """What was too much is gone; what comes at its time counts."""
    await flood(call, 1.0)
    await call.peer.say(bytes(32_000) + sentence)
    await call.reported("SPEECH_STARTED")


async def test_packets_that_are_no_opus_cost_at_most_one_line(
    call: Call, sentence: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Empty ones, too, which libav takes for the end of the stream: the decoder would be deaf from there on."""
    wire = Wire(call)
    caplog.set_level(logging.WARNING)
    for number in range(200):
        await wire.rtp(
            number, (b"", b"\xff", b"\xff\x00", b"\xff\xff", b"\x03\x3f" + bytes(9), b"\xfa\xfe\xff\xff")[number % 6]
        )
        await asyncio.sleep(0.002)
    await call.peer.say(sentence)
    await call.reported("SPEECH_STARTED")
    assert len(caplog.records) <= 1
    assert call.handler._dropped["malformed"] > 50


async def test_many_senders_are_forgotten_again_and_the_call_ends_at_once(call: Call, sentence: bytes) -> None:
    """Two hundred SSRCs: aiortc can report of 31, and its receiver would never stop after it failed to."""
    wire, receiver = Wire(call), call.handler._transceiver.receiver
    for ssrc in range(200):
        await wire.rtp(ssrc, FRAME, ssrc=1_000 + ssrc)
        await wire.transport._send_rtp(bytes(RtcpByePacket(sources=[5_000 + ssrc])))
        await asyncio.sleep(0.005)
    streams = receiver._RTCRtpReceiver__remote_streams
    assert 0 < len(streams) <= MOST_SOURCES
    assert len(receiver._RTCRtpReceiver__active_ssrc) <= MOST_SOURCES
    assert len(receiver.transport._rtp_router.ssrc_table) <= MOST_SOURCES
    reports = _report_task(receiver)
    await call.peer.say(sentence)  # takes longer than the time between two reports
    await call.reported("SPEECH_STARTED")
    assert not reports.done()
    async with asyncio.timeout(1):
        await call.handler.close()


async def test_numbers_that_no_report_can_hold_end_no_report(call: Call) -> None:
    """Timestamps that jump by half their range make a jitter of more than 32 bits."""
    wire, receiver = Wire(call), call.handler._transceiver.receiver
    for number in range(100):
        await wire.rtp(number, FRAME, timestamp=0 if number % 2 else (1 << 32) - 1)
        await asyncio.sleep(0.006)
    (stream,) = [one for ssrc, one in receiver._RTCRtpReceiver__remote_streams.items() if ssrc == 77]
    stream._jitter_q4 = 1 << 40  # what it comes to after some minutes of this
    reports = _report_task(receiver)
    failed = call.handler._dropped
    await until(lambda: failed["reports of ours"] > 0 or reports.done())
    assert not reports.done()
    async with asyncio.timeout(1):
        await call.handler.close()


async def test_nobody_can_ask_for_retransmissions(call: Call) -> None:
    """One packet can ask for the same packet six thousand times; each would be encrypted and sent anew."""
    wire = Wire(call)
    say(call, "answer_1", tone(10_000))
    await call.peer.until(lambda: len(call.peer.packets) > 30)
    ((agent_ssrc, stream),) = call.peer.connection.getTransceivers()[0].receiver._RTCRtpReceiver__remote_streams.items()
    ask = RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=wire.ssrc, media_ssrc=agent_ssrc)
    ask.lost = [(stream.max_seq - 20 + n % 17) % (1 << 16) for n in range(17)]
    stop = asyncio.Event()
    waiting = asyncio.create_task(longest_wait_s(stop))
    received = stream.packets_received
    one = bytes(ask)
    fci = one[12:] * 300
    many = one[:2] + ((8 + len(fci)) // 4).to_bytes(2, "big") + one[4:12] + fci
    for _ in range(20):
        await wire.transport._send_rtp(many)
    before_s = time.monotonic()
    await call.peer.until(lambda: time.monotonic() - before_s > 0.5 and len(call.peer.packets) > 0)
    stop.set()
    assert await waiting < 0.5
    assert stream.packets_received - received < 100


@pytest.mark.parametrize("in_a_datagram", [1, 10, 160])
async def test_goodbyes_without_end_cost_at_most_some_lines(
    call: Call, sentence: bytes, caplog: pytest.LogCaptureFixture, in_a_datagram: int
) -> None:
    """Each would be a line and a new state of the voice detector; a datagram has room for 160 of them."""
    wire = Wire(call)
    caplog.set_level(logging.INFO)
    await wire.rtp(1, FRAME, ssrc=77)
    goodbyes = bytes(RtcpByePacket(sources=[77])) * in_a_datagram
    for _ in range(40):
        await wire.transport._send_rtp(goodbyes)
    dropped = call.handler._dropped
    await until(lambda: dropped["goodbyes"] + MOST_REPORTS * dropped["malformed"] >= 30)
    assert caplog.text.count("source has ended") <= MOST_GOODBYES + 2
    await call.peer.say(sentence)
    await call.reported("SPEECH_STARTED")


async def test_records_that_nobody_asked_for_are_read_and_dropped(call: Call) -> None:
    """Application data over DTLS, 36 records in a datagram: none stays in OpenSSL's memory, and the call goes on."""
    await call.peer.until(lambda: bool(call.peer.heard))
    ours, theirs = call.peer.connection.getSenders()[0].transport, call.handler._transceiver.receiver.transport
    received = theirs._RTCDtlsTransport__rx_packets
    for _ in range(20):
        for _ in range(36):
            ours._ssl.send(b"x")
        await ours.transport._send(ours._ssl.bio_read(1_500))
    await until(lambda: theirs._RTCDtlsTransport__rx_packets >= received + 20)
    with pytest.raises(SSL.WantReadError):
        theirs._ssl.recv(1_500)
    assert "HANDLER_DETACHED" not in call.types()
    ours._ssl.send(b"x")
    ours._ssl.shutdown()  # behind another record, in one datagram
    await ours.transport._send(ours._ssl.bio_read(1_500))
    assert (await call.reported("HANDLER_DETACHED")).reason


def _report_task(receiver) -> "asyncio.Future[None]":
    return receiver._RTCRtpReceiver__rtcp_task


@pytest.mark.parametrize(
    ("packet", "ms"),
    [
        (b"", 0),
        (b"\x00", 10),
        (b"\x0b\x03", 60),
        (b"\x18", 60),
        (b"\x19", 120),
        (b"\x1b\x03", 0),
        (b"\x78", 20),
        (b"\x80", 2.5),
        (b"\xf8", 20),
        (b"\xfb", 0),
        (b"\xfb\x00", 0),
        (b"\xfb\x06", 120),
        (b"\xfb\x07", 0),
        (b"\xfb\x86", 120),
    ],
)
def test_the_length_of_an_opus_packet(packet: bytes, ms: float) -> None:
    """By its first two bytes; no packet holds more than 120 ms, or nothing."""
    assert packet_ms(packet) == ms


def test_what_libopus_encodes_has_the_length_that_we_read() -> None:
    """Our own 20 ms frames."""
    assert packet_ms(FRAME) == 20
