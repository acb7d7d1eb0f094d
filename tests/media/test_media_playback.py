"""Playback: pacing, back-pressure, progress, the end and its confirmation, and stopping. No network."""

import asyncio
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from aiortc.mediastreams import MediaStreamError

from orchestrator.media.opus import rest, silence
from orchestrator.media.playback import PlaybackEnd, PlaybackStopped
from orchestrator.media.settings import MediaSettings
from orchestrator.media.track import AgentTrack
from orchestrator.services.ports import SpeechChunk
from tests.media.player import QUICK, Player, speech

SILENCE = silence()


@pytest.fixture
def player():
    return Player()


async def test_the_client_hears_of_a_playback_before_its_first_frame(player):
    """playback_start goes out while the frame still waits for its tick; on_started comes with the frame."""
    await player.playback.write(speech(100))
    assert player.told == [{"type": "playback_start", "playback_id": "answer_1"}]
    assert player.started == 0
    player.tick(2)
    await asyncio.sleep(0)
    assert player.started == 1


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 24_000, 48_000])
async def test_every_sample_is_played_at_any_rate(player, rate_hz):
    """500 ms of speech are 25 frames, however it is cut; the position ends exactly there."""
    for _ in range(5):
        await player.playback.write(speech(100, rate_hz))
    finishing = asyncio.create_task(player.playback.finish())
    await player.play_out()
    assert player.heard_bytes // 1920 in (25, 26)
    assert await finishing == PlaybackEnd("timer", 500)


async def test_writing_waits_while_a_second_is_buffered(player):
    """A synthesiser a thousand times faster than speech is read no faster than it is heard."""
    writing = asyncio.create_task(player.playback.write(speech(3000)))
    await asyncio.sleep(0.01)
    assert not writing.done()
    buffered = player.tick(200)
    assert 1000 <= len(buffered) * 20 <= 1260
    async with asyncio.timeout(1):
        while not writing.done():
            player.tick()
            await asyncio.sleep(0)
    assert player.playback.position_ms >= 3000 - 1000 - 200 - 20


async def test_progress_is_reported_in_media_time():
    """Each interval of speech once, with the position reached."""
    player = Player(MediaSettings(progress_interval_ms=200))
    writing = asyncio.create_task(player.playback.write(speech(700)))
    await asyncio.sleep(0)
    player.tick(20)
    await writing
    finishing = asyncio.create_task(player.playback.finish())
    await player.play_out()
    await asyncio.sleep(0)
    assert player.progress == [200, 400, 600]
    player.playback.confirm()
    assert (await finishing).position_ms == 700


@pytest.mark.parametrize(("stall_s", "reports"), [(0.0, 1), (60.0, 0)])
async def test_progress_is_reported_after_a_stall(player, monkeypatch, stall_s, reports):
    """Of the synthesiser, in mid-answer: else the heard position would run ahead for up to a second. Not after a gap
    that nobody notices, nor twice.
    """
    monkeypatch.setattr("orchestrator.media.playback._STALL_S", stall_s)
    await player.playback.write(speech(100))
    player.tick(10)
    reached_ms = player.playback.position_ms
    await player.playback.write(speech(100))
    player.tick(3)
    await asyncio.sleep(0)
    assert player.progress == [reached_ms + 20] * reports


async def test_the_client_confirms_the_end(player):
    """After the mark, and not before, the client's word ends the playback."""
    await player.playback.write(speech(100))
    finishing = asyncio.create_task(player.playback.finish())
    await asyncio.sleep(0)
    player.playback.confirm()  # too early: it cannot have heard what was not sent
    await player.play_out()
    await asyncio.sleep(0)
    assert player.told[-1] == {"type": "playback_mark", "playback_id": "answer_1", "rtp": 77}
    player.playback.confirm()
    assert await finishing == PlaybackEnd("client", 100)
    assert player.playback.is_over


async def test_a_silent_client_is_confirmed_by_the_timer(player):
    """The end never waits for a client longer than the setting says."""
    await player.playback.write(speech(100))
    finishing = asyncio.create_task(player.playback.finish())
    await player.play_out()
    drained_s = time.monotonic()
    assert await finishing == PlaybackEnd("timer", 100)
    assert time.monotonic() - drained_s >= 0.02


async def test_a_caller_from_whom_nothing_comes_is_waited_for():
    """Its network has changed: it has not heard the end, and calls again. The wait is bounded."""
    player = Player(replace(QUICK, lost_caller_ms=150), caller_came_s=0)
    await player.playback.write(speech(100))
    finishing = asyncio.create_task(player.playback.finish())
    await player.play_out()
    drained_s = time.monotonic()
    assert await finishing == PlaybackEnd("timer", 100)
    assert time.monotonic() - drained_s >= 0.14


async def test_a_playback_without_speech_ends_at_once(player):
    """Nothing was sent, nobody is asked."""
    assert await player.playback.finish() == PlaybackEnd("timer", 0)
    assert player.told == []


async def test_the_tail_of_speech_goes_through_the_encoder(player):
    """The encoder holds the last milliseconds back: three more frames bring them out, then the line is idle."""
    await player.playback.write(speech(100))
    finishing = asyncio.create_task(player.playback.finish())
    await asyncio.sleep(0)
    packets = player.tick(40)
    assert len(packets) - player.heard_bytes // 1920 == 3
    player.playback.confirm()
    await finishing


async def test_speech_that_runs_dry_goes_on_where_it_was(player):
    """A slow synthesiser makes a pause; position and client see no second start."""
    await player.playback.write(speech(100))
    player.tick(20)
    before_ms = player.playback.position_ms
    assert player.tick(20) == []
    await player.playback.write(speech(100))
    player.tick(20)
    await asyncio.sleep(0)
    assert player.playback.position_ms > before_ms
    assert [message["type"] for message in player.told] == ["playback_start"]
    assert player.started == 1


async def test_stopping_ends_a_pending_write_and_leaves_nothing_to_send(player):
    """A writer that waits for room learns of the stop at once."""
    writing = asyncio.create_task(player.playback.write(speech(2000)))
    await asyncio.sleep(0)
    player.tick(5)
    player.playback.stop()
    assert player.tick(10) == []
    with pytest.raises(PlaybackStopped):
        await writing
    with pytest.raises(PlaybackStopped):
        await player.playback.write(speech(20))
    with pytest.raises(PlaybackStopped):
        await player.playback.finish()


async def test_stopping_ends_a_pending_finish(player):
    """Also when all is sent and only the client's word is missing."""
    await player.playback.write(speech(100))
    finishing = asyncio.create_task(player.playback.finish())
    await player.play_out()
    player.playback.stop()
    with pytest.raises(PlaybackStopped):
        await finishing


async def test_nothing_is_called_back_after_a_stop(player):
    """The first frame left, but the stop came before the callback's turn."""
    await player.playback.write(speech(100))
    player.tick()
    player.playback.stop()
    await asyncio.sleep(0)
    assert (player.started, player.progress) == (0, [])


async def test_a_cancelled_finish_can_be_asked_again(player):
    """Whoever waits may go; the playback does not care."""
    await player.playback.write(speech(100))
    finishing = asyncio.create_task(player.playback.finish())
    await asyncio.sleep(0)
    finishing.cancel()
    await player.play_out()
    assert await player.playback.finish() == PlaybackEnd("timer", 100)


async def test_half_a_sample_is_refused(player):
    """An odd number of bytes would turn all later speech into noise."""
    with pytest.raises(ValueError, match="16-bit"):
        await player.playback.write(SpeechChunk(b"\0\0\0", 16_000))


async def test_a_track_without_speech_rests():
    """A packet that says so every 400 ms, with timestamps of the time that has passed."""
    track = AgentTrack(QUICK, lambda: 0)
    began_s = time.monotonic()
    packets = [await track.recv() for _ in range(4)]
    assert time.monotonic() - began_s >= 1.2
    assert {bytes(packet) for packet in packets} == {rest()}
    assert packets[0].pts == 0
    gaps = [after.pts - before.pts for before, after in pairwise(packets)]
    assert all(gap >= 20 * 960 and gap % 960 == 0 for gap in gaps)


async def test_speech_ends_a_rest_at_once(player):
    """At the next tick, with the timestamp of that moment; the mark's is of the packet after the last."""
    track = AgentTrack(QUICK, lambda: track.samples_since_sent)
    await track.recv()
    began_s = time.monotonic()
    resting = asyncio.create_task(track.recv())
    await asyncio.sleep(0.1)
    player.playback._wake = track.wake
    track.playback = player.playback
    assert [bytes(await resting)] == [rest()]  # there is a playback, and nothing to play yet
    resting = asyncio.create_task(track.recv())
    await asyncio.sleep(0.1)
    await player.playback.write(speech(40))
    packet = await resting
    assert 0.2 <= time.monotonic() - began_s <= 0.35
    assert packet.pts >= 10 * 960
    assert bytes(packet) not in (rest(), SILENCE)


async def test_speech_is_followed_by_silence_and_then_by_rest(player):
    """The caller's decoder goes on with the last sound that it has heard: that is none."""
    track = AgentTrack(QUICK, lambda: 0)
    await player.playback.write(speech(400))
    track.playback = player.playback
    spoken = [bytes(await track.recv()) for _ in range(2)]
    player.playback.stop()
    track.playback = None
    assert not {SILENCE, rest()} & {*spoken}
    assert [bytes(await track.recv()) for _ in range(6)] == [SILENCE] * 5 + [rest()]


async def test_a_late_track_does_not_burst(player):
    """After the loop was blocked, the clock forgives itself: the next packets keep their 20 ms."""
    track = AgentTrack(QUICK, lambda: 0)
    await player.playback.write(speech(400))
    track.playback = player.playback
    await track.recv()
    time.sleep(0.2)  # noqa: ASYNC251  (blocking the loop is the point)
    await track.recv()
    began_s = time.monotonic()
    packets = [await track.recv() for _ in range(5)]
    assert time.monotonic() - began_s >= 0.08
    assert packets[-1].pts == 6 * 960


async def test_what_to_send_is_decided_after_the_wait(player):
    """A stop during the pacing sleep silences the packet that was being waited for."""
    track = AgentTrack(QUICK, lambda: 0)
    await player.playback.write(speech(200))
    track.playback = player.playback
    assert bytes(await track.recv()) != SILENCE
    waiting = asyncio.create_task(track.recv())
    await asyncio.sleep(0)
    player.playback.stop()
    assert bytes(await waiting) == SILENCE


async def test_a_track_never_raises_while_it_lives(player):
    """aiortc stops sending for good when recv() raises: a broken playback is silence and a log line."""
    track = AgentTrack(QUICK, lambda: 1 // 0)
    player.playback.take_packet = lambda _: 1 // 0
    track.playback = player.playback
    assert [bytes(await track.recv()) for _ in range(3)] == [SILENCE] * 3
    track.stop()
    with pytest.raises(MediaStreamError):
        await track.recv()
