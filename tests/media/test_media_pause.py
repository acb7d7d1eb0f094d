"""Pausing: no speech leaves, nothing is lost or repeated, and what was paused before it began begins paused."""

import asyncio
from array import array

import pytest

from orchestrator.media.playback import PlaybackEnd, PlaybackStopped
from orchestrator.media.settings import MediaSettings
from orchestrator.media.track import AgentTrack
from orchestrator.services.ports import SpeechChunk
from tests.media.player import QUICK, Player, speech
from tests.media.speech import scaled
from tests.media.test_media_connection import QUIET, say, tone

TAIL = 3
"""Frames of silence that bring the end of what was said out of the encoder."""


def rising(duration_ms: int) -> SpeechChunk:
    """Up to 1.3 s of sound of which no two samples are alike, at the rate at which it is played."""
    return SpeechChunk(array("h", range(-32_768, 48 * duration_ms - 32_768)).tobytes(), 48_000)


@pytest.fixture
def player():
    return Player()


async def test_a_paused_playback_sends_nothing_and_goes_on_with_the_next_frame(player):
    """The tail of silence alone leaves; then every sample comes once and in order, whenever it was paused."""
    await player.playback.write(rising(400))
    finishing = asyncio.create_task(player.playback.finish())
    await asyncio.sleep(0)
    for number in range(1, 6):
        player.tick(3)
        player.playback.pause()
        assert len(player.tick(50)) == TAIL
        assert (player.playback.position_ms, player.heard_bytes) == (60 * number, 60 * 96 * number)
        player.playback.resume()
    await player.play_out()
    complete = player.heard[: 400 * 96] == rising(400).pcm
    assert complete
    assert await finishing == PlaybackEnd("timer", 400)
    assert [message["type"] for message in player.told] == ["playback_start", "playback_mark"]


async def test_progress_stands_still_while_it_is_paused():
    """Nothing is reported, and the next report comes after as much speech as ever."""
    player = Player(MediaSettings(progress_interval_ms=100))
    await player.playback.write(rising(400))
    player.tick(6)
    await asyncio.sleep(0)
    player.playback.pause()
    player.tick(50)
    await asyncio.sleep(0)
    assert player.progress == [100]
    player.playback.resume()
    player.tick(4)
    await asyncio.sleep(0)
    assert player.progress == [100, 200]


async def test_what_is_written_to_a_paused_playback_waits_behind_the_usual_limit(player):
    """The synthesiser is read a second ahead and then no further, however long the pause lasts."""
    player.playback.pause()
    writing = asyncio.create_task(player.playback.write(rising(1300)))
    await asyncio.sleep(0)
    assert player.tick(100) == []
    await asyncio.sleep(0)
    assert not writing.done()
    player.playback.resume()
    async with asyncio.timeout(5):
        while not writing.done():
            player.tick()
            await asyncio.sleep(0)
    player.tick(100)
    complete = player.heard == rising(1300).pcm
    assert complete


async def test_a_playback_that_is_paused_at_its_very_end_is_not_marked(player):
    """All speech has left; the client is asked whether it heard the end when the pause is over."""
    await player.playback.write(speech(100))
    player.tick(20)
    player.playback.pause()
    finishing = asyncio.create_task(player.playback.finish())
    await asyncio.sleep(0)
    player.tick(20)
    await asyncio.sleep(0)
    player.playback.confirm()
    assert [message["type"] for message in player.told] == ["playback_start"]
    assert not finishing.done()
    player.playback.resume()
    await player.play_out()
    await asyncio.sleep(0)
    player.playback.confirm()
    assert await finishing == PlaybackEnd("client", 100)


async def test_stopping_a_paused_playback_is_stopping(player):
    """A writer learns of it at once, and nothing is left to send, also after a late resume."""
    writing = asyncio.create_task(player.playback.write(speech(2000)))
    await asyncio.sleep(0)
    player.tick(5)
    player.playback.pause()
    player.playback.stop()
    player.playback.resume()
    assert player.tick(10) == []
    with pytest.raises(PlaybackStopped):
        await writing
    with pytest.raises(PlaybackStopped):
        await player.playback.finish()


async def test_a_pause_during_the_wait_of_the_track_is_obeyed_by_the_packet_that_was_waited_for(player):
    """As with a stop: what to send is decided when it is due. A paused playback stays on the track."""
    track = AgentTrack(QUICK, lambda: 0)
    await player.playback.write(speech(200))
    track.playback = player.playback
    await track.recv()
    left_bytes = player.heard_bytes
    waiting = asyncio.create_task(track.recv())
    await asyncio.sleep(0)
    player.playback.pause()
    await waiting
    for _ in range(TAIL + 1):
        await track.recv()
    assert player.heard_bytes == left_bytes
    player.playback.resume()
    await track.recv()
    assert player.heard_bytes == left_bytes + 1920


async def test_no_speech_leaves_after_pause_returns_and_resume_goes_on(call):
    """Over a real connection: silence, not even a stop at the client, then the rest; all of it was heard."""
    playback, ending = say(call, "answer_1", tone(900))
    await call.peer.hears_agent()
    call.handler.pause("answer_1")
    position_ms, next_rtp = playback.position_ms, call.handler._next_rtp_timestamp()
    payloads = await call.peer.gets(10, from_rtp=next_rtp)
    assert [payload not in QUIET for payload in payloads] == [True] * TAIL + [False] * (10 - TAIL)
    assert playback.position_ms == position_ms < 900
    await call.peer.hears_silence(0.1)
    call.handler.resume("answer_1")
    await call.peer.hears_agent(after_s=call.peer.heard[-1].at_s)
    await call.told_client("playback_mark")
    call.handler.client_confirmed("answer_1")
    assert await ending == PlaybackEnd("client", 900)
    assert [message["type"] for message in call.told] == ["playback_start", "playback_mark"]
    assert sum(frame.rms > 3000 for frame in call.peer.heard) * 20 >= 860


async def test_a_paused_playback_that_is_stopped_says_so_to_the_client(call):
    """By command, or by the next playback."""
    for stop in (lambda: call.handler.stop("answer_1"), lambda: call.handler.play("answer_2", print, print)):
        _, ending = say(call, "answer_1", tone(2000))
        await call.peer.hears_agent(after_s=call.peer.heard[-1].at_s if call.peer.heard else 0.0)
        call.handler.pause("answer_1")
        stop()
        with pytest.raises(PlaybackStopped):
            await ending
        assert call.told[-1] == {"type": "playback_stop", "playback_id": "answer_1"}
        call.handler.resume("answer_1")
        await call.peer.hears_silence(0.1)


async def test_what_is_paused_before_it_began_begins_paused(call):
    """The command was quicker than the synthesis: nothing is heard of it until it is resumed."""
    call.handler.pause("answer_1")
    _, ending = say(call, "answer_1", tone(200))
    await call.peer.until(lambda: len(call.peer.packets) >= 3)
    assert {packet.payload for packet in call.peer.packets} <= {*QUIET}
    call.handler.resume("answer_1")
    await call.peer.hears_agent()
    await call.told_client("playback_mark")
    call.handler.client_confirmed("answer_1")
    assert (await ending).position_ms == 200


@pytest.mark.parametrize("forget", ["resume", "stop", "another", "play"])
async def test_an_early_pause_is_forgotten(call, forget):
    """Resumed or stopped before it began, superseded by the pause of another, or used up by one that began."""
    call.handler.pause("answer_1")
    if forget == "another":
        call.handler.pause("answer_2")
    elif forget == "play":
        call.handler.play("answer_1", lambda: None, lambda _: None)
    else:
        getattr(call.handler, forget)("answer_1")
    _, ending = say(call, "answer_1", tone(2000))
    await call.peer.hears_agent()
    call.handler.stop("answer_1")
    await asyncio.wait([ending])


async def test_while_the_agent_is_paused_a_quiet_user_is_heard(call, sentence):
    """What is not played leaves no echo: half a second into the pause the guard is down."""
    quiet = scaled(sentence, 0.1)
    _, ending = say(call, "answer_1", tone(3000))
    await call.peer.hears_agent()
    await call.peer.say(quiet[:-16_000])
    assert call.events == []
    call.handler.pause("answer_1")
    await call.peer.say(bytes(16_000) + quiet)
    await call.reported("SPEECH_STARTED")
    call.handler.stop("answer_1")
    await asyncio.wait([ending])
