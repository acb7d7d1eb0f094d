"""Silence that is not sent: a caller's microphone that rests (Opus's DTX), and an agent that has nothing to say."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from events.envelope import Input
from events.inputs import SpeechStopped
from orchestrator.media.opus import packet_ms, rest, says_rest, silence
from orchestrator.media.settings import MediaSettings
from tests.media.microphone_bench import Bench
from tests.media.stubs import Call

SILENCE_MS = MediaSettings().silence_ms
FEW = 12
"""Most packets in a second of silence: two in 400 ms, and what a start adds."""


@pytest.fixture
async def call(make_call: Callable[..., Awaitable[Call]]) -> Call:
    return await make_call(rests=True)


def test_a_packet_that_says_rest_is_a_frame_of_no_bytes() -> None:
    assert says_rest(rest())
    assert not says_rest(silence())
    assert packet_ms(rest()) == packet_ms(silence()) == 20


async def test_the_end_of_speech_is_noticed_while_no_packet_comes(sentence: bytes) -> None:
    """As early as with packets of silence, and where the speech ended."""
    bench = await Bench.set_up()
    bench.hear(sentence)
    ended_s, ends_ms = time.monotonic(), bench.microphone._activity.position_ms
    stopped: asyncio.Future[Input] = asyncio.get_running_loop().create_future()
    bench.microphone._say = stopped.set_result
    bench.microphone.rest()
    async with asyncio.timeout(1):
        event = await stopped
    assert time.monotonic() - ended_s < (SILENCE_MS + 100) / 1000
    assert isinstance(event, SpeechStopped)
    assert abs(event.media_ms - ends_ms) < 200


async def test_a_rest_moves_no_later_speech(sentence: bytes) -> None:
    """The silence that was heard without packets is not heard again when the next one comes."""
    bench = await Bench.set_up()
    bench.hear(sentence)
    before = bench.microphone._activity.position_ms
    bench.microphone.rest()
    await asyncio.sleep(0.4)
    bench.pts += 400 * 48  # the packets that the caller did not send
    bench.hear(bytes(640))
    assert abs(bench.microphone._activity.position_ms - before - 420) <= 20


async def test_an_open_utterance_is_heard_to_its_end(sentence: bytes) -> None:
    """Its recogniser gets the silence after the last word, as with packets of it, until it is asked for the final."""
    bench = await Bench.set_up()
    bench.hear(sentence + bytes(32 * 400))
    assert bench.types() == ["SPEECH_STARTED", "SPEECH_STOPPED"]
    before = len(bench.recognizer.utterances[-1])
    bench.microphone.rest()
    await asyncio.sleep(0.3)
    assert len(bench.recognizer.utterances[-1]) - before >= 32 * 200
    bench.microphone.finish_utterance()
    await asyncio.sleep(0.05)
    assert bench.microphone._rest is None


async def test_a_rest_without_speech_sets_no_timer() -> None:
    bench = await Bench.set_up()
    bench.hear(bytes(6400))
    bench.microphone.rest()
    assert bench.microphone._rest is None


async def test_a_resting_caller_is_heard_like_another(call: Call, sentence: bytes) -> None:
    """Two sentences with a rest between them, each begun, ended and finished; few packets between."""
    for number in (1, 2):
        await call.peer.say(sentence)
        said_s = time.monotonic()
        await call.reported("SPEECH_STOPPED", number)
        assert time.monotonic() - said_s < 0.6
        call.handler.finish_utterance()
        await call.reported("STT_FINAL", number)
        sender = call.peer.connection.getTransceivers()[0].sender
        before = sender._RTCRtpSender__packet_count
        await asyncio.sleep(1)
        assert sender._RTCRtpSender__packet_count - before <= FEW
    assert call.types() == ["SPEECH_STARTED", "SPEECH_STOPPED", "STT_FINAL"] * 2


async def test_an_agent_with_nothing_to_say_sends_few_packets(call: Call) -> None:
    await call.peer.until(lambda: len(call.peer.packets) > 1)
    before = len(call.peer.packets)
    await asyncio.sleep(1)
    assert 1 <= len(call.peer.packets) - before <= 4
    assert {packet.payload for packet in call.peer.packets[before:]} == {rest()}


async def test_the_answer_asks_browsers_to_rest(call: Call) -> None:
    assert "usedtx=1" in call.peer.connection.remoteDescription.sdp
