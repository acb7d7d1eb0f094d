"""Whole calls: a handler and an aiortc peer over loopback, with real Opus and real voice detection."""

import asyncio
import re
import time
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

import av
import pytest
from aiortc.rtp import RtcpByePacket

from orchestrator.media.handler import MediaHandler
from orchestrator.media.offer import OfferRefused
from orchestrator.media.opus import rest, silence
from orchestrator.media.playback import PlaybackEnd, PlaybackStopped
from orchestrator.media.settings import MediaSettings
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import SpeechChunk, Transcript
from tests.media.peer import CallPeer
from tests.media.speech import resample, scaled
from tests.media.stubs import ON_LOOPBACK, RememberingSpeechToText

QUIET = (silence(), rest())


def tone(duration_ms: int, level: int = 6000) -> SpeechChunk:
    """A square-ish tone of 200 Hz with RMS `level`."""
    period = b"".join((level * sign).to_bytes(2, "little", signed=True) for sign in [1] * 40 + [-1] * 40)
    return SpeechChunk(period * (duration_ms // 5), 16_000)


def say(call, playback_id: str, chunk: SpeechChunk, **callbacks):
    """Play one chunk to its end: the playback and the task that awaits its end."""
    nothing = {"on_started": lambda: None, "on_progress": lambda _: None}
    playback = call.handler.play(playback_id, **(nothing | callbacks))

    async def run() -> PlaybackEnd:
        await playback.write(chunk)
        return await playback.finish()

    return playback, asyncio.create_task(run())


async def test_the_caller_hears_the_agent_as_loud_as_it_speaks(call):
    """Through Opus, SRTP and UDP; the end is marked with the timestamp of a packet that arrives, and confirmed."""
    started = asyncio.Event()
    _, ending = say(call, "answer_1", tone(600), on_started=started.set)
    await call.peer.hears_agent()
    assert started.is_set()
    mark = await call.told_client("playback_mark")
    await call.peer.reaches(mark["rtp"])
    call.handler.client_confirmed("answer_1")
    assert await ending == PlaybackEnd("client", 600)
    await call.peer.hears_silence(0.1)
    loud = [frame.rms for frame in call.peer.heard if frame.rms > 3000]
    assert 5000 < sum(loud) / len(loud) < 7000
    assert 560 <= len(loud) * 20 <= 660
    last_speech = max(p.rtp_timestamp for p in call.peer.packets if p.payload not in QUIET)
    assert last_speech == mark["rtp"] + 2 * 960  # the mark is the first of three tail frames


async def test_the_agent_hears_the_caller(call, sentence):
    """Onset, offset and final are reported with both ids; the recogniser gets all of it, lead included."""
    await call.peer.say(bytes(6400) + sentence)
    await call.reported("SPEECH_STOPPED")
    call.handler.finish_utterance()
    final = await call.reported("STT_FINAL")
    assert call.types() == ["SPEECH_STARTED", "SPEECH_STOPPED", "STT_FINAL"]
    assert {(event.session_id, event.handler_id) for event in call.events} == {("auto_session_1", "fastrtc_1")}
    assert final.text == "utterance 1"
    assert final.observed_at_us >= call.events[0].observed_at_us > 0
    assert len(call.stt.recognizer.utterances[0]) > len(sentence)


def says_goodbye(call, source: int) -> Coroutine[Any, Any, None]:
    """An RTCP BYE for one of the caller's sources, as a switchboard sends it when it puts another leg through."""
    sender = call.peer.connection.getTransceivers()[0].sender
    return sender.transport._send_rtp(bytes(RtcpByePacket(sources=[source])))


@pytest.mark.parametrize("goes_on_as", ["the same source", "another source", "another source, with a late goodbye"])
async def test_the_agent_hears_the_caller_after_a_goodbye_of_their_source(call, sentence, goes_on_as):
    """RTCP BYE ends a source and not the call; twice in a row."""
    sender = call.peer.connection.getTransceivers()[0].sender
    for number in (1, 2):
        await call.peer.say(bytes(6400) + sentence)
        await call.reported("SPEECH_STOPPED", number)
        call.handler.finish_utterance()
        await call.reported("STT_FINAL", number)
        before = sender._ssrc
        if "late" not in goes_on_as:
            await says_goodbye(call, before)
        if goes_on_as != "the same source":
            sender._ssrc = before + 1
        if "late" in goes_on_as:
            await call.peer.say(bytes(6400))
            await says_goodbye(call, before)
    await call.peer.say(bytes(6400) + sentence)
    await call.reported("SPEECH_STOPPED", 3)
    assert call.types().count("SPEECH_STARTED") == 3
    assert "HANDLER_DETACHED" not in call.types()
    assert len(call.stt.recognizer.utterances[2]) > len(sentence)


async def test_a_goodbye_in_the_middle_of_speech_ends_it(call, sentence):
    """Nothing more comes, so the user has finished."""
    saying = asyncio.create_task(call.peer.say(sentence))
    await call.reported("SPEECH_STARTED")
    sender = call.peer.connection.getTransceivers()[0].sender
    sender.replaceTrack(None)
    await says_goodbye(call, sender._ssrc)
    await call.reported("SPEECH_STOPPED")
    saying.cancel()


async def test_a_track_that_ends_takes_the_connection_along(call):
    """Nothing would ever be heard again: the session is told, so that its client calls again."""
    await call.peer.until(lambda: bool(call.peer.heard))  # both ends have begun
    call.handler._transceiver.receiver._handle_disconnect()
    ended = await call.reported("HANDLER_DETACHED")
    assert "track ended" in ended.reason


async def test_no_frame_leaves_after_stop_returns(call):
    """The client is told first; then not one more packet of speech is handed out, and waiters learn of it."""
    playback, ending = say(call, "answer_1", tone(2000))
    await call.peer.hears_agent()
    over_when_told = []
    call.handler._tell_client = lambda message: over_when_told.append((message, playback.is_over))
    call.handler.stop("answer_1")
    next_rtp = call.handler._next_rtp_timestamp()
    assert over_when_told == [({"type": "playback_stop", "playback_id": "answer_1"}, False)]
    with pytest.raises(PlaybackStopped):
        await ending
    assert await call.peer.gets(6, from_rtp=next_rtp) == [silence()] * 5 + [rest()]
    await call.peer.hears_silence(0.1)
    call.handler.stop("answer_1")
    call.handler.stop("never played")
    assert len(over_when_told) == 1


async def test_a_new_playback_stops_the_older(call):
    """Only one is audible; the next one is heard."""
    _, first = say(call, "filler_1", tone(2000))
    await call.peer.hears_agent()
    _, second = say(call, "answer_1", tone(100))
    with pytest.raises(PlaybackStopped):
        await first
    mark = await call.told_client("playback_mark")
    call.handler.client_confirmed("answer_1")
    assert (await second).confirmed_by == "client"
    assert mark["playback_id"] == "answer_1"
    assert [(m["type"], m["playback_id"]) for m in call.told[:3]] == [
        ("playback_start", "filler_1"),
        ("playback_stop", "filler_1"),
        ("playback_start", "answer_1"),
    ]


async def test_the_rest_of_a_playback_in_its_place_mutes_nobody(call):
    """A client ignores the start of a playback that it was told is stopped: it would stay muted."""
    _, first = say(call, "answer_1", tone(2000))
    await call.peer.hears_agent()
    _, rest = say(call, "answer_1", tone(100))
    with pytest.raises(PlaybackStopped):
        await first
    await call.told_client("playback_mark")
    call.handler.client_confirmed("answer_1")
    assert (await rest).confirmed_by == "client"
    assert [m["type"] for m in call.told] == ["playback_start", "playback_start", "playback_mark"]


async def test_a_playback_that_was_sent_may_still_be_confirmed_when_the_next_one_plays(make_call):
    """It is not audible any more, so the next one does not stop it."""
    call = await make_call(MediaSettings(ice_host_addresses=("127.0.0.1",), confirmation_timeout_ms=60_000))
    _, first = say(call, "filler_1", tone(60))
    await call.told_client("playback_mark")
    _, second = say(call, "answer_1", tone(60))
    call.handler.client_confirmed("filler_1")
    assert (await first).confirmed_by == "client"
    second.cancel()


async def test_the_voice_outlives_callbacks_and_clients_that_fail(make_call):
    """Neither a broken callback nor a client that cannot be told ends the agent's voice."""
    call = await make_call()
    call.handler._tell_client = lambda _: 1 // 0
    _, first = say(call, "answer_1", tone(60), on_started=lambda: 1 // 0)
    await call.peer.hears_agent()
    call.handler.stop("answer_1")
    await asyncio.wait([first])
    await call.peer.hears_silence(0.1)
    _, second = say(call, "answer_2", tone(2000))
    await call.peer.hears_agent(after_s=call.peer.heard[-1].at_s)
    call.handler.stop("answer_2")
    await asyncio.wait([second])
    assert isinstance(first.exception() or second.exception(), PlaybackStopped)


async def test_an_interruption_is_noticed_while_the_agent_speaks(call, sentence):
    """Full duplex: gated microphone, agent audible, the user speaks up."""
    call.handler.set_microphone("gated")
    _, ending = say(call, "answer_1", tone(3000, level=2000))
    await call.peer.hears_agent()
    speaking = asyncio.create_task(call.peer.say(sentence))
    await call.reported("SPEECH_STARTED")
    call.handler.stop("answer_1")
    await asyncio.wait([ending])
    await speaking
    await call.reported("SPEECH_STOPPED")
    assert call.stt.recognizer.calls == ["start"]


async def test_the_agents_echo_in_the_microphone_is_not_speech(call, sentence):
    """The caller's loudspeaker is heard by the caller's microphone, 20 dB quieter: nothing is reported."""
    echo = scaled(sentence, 0.1)
    _, ending = say(call, "answer_1", SpeechChunk(resample(sentence, 16_000, 24_000), 24_000))
    await call.peer.hears_agent()
    await call.peer.say(echo[:-16_000])
    assert call.events == []
    call.handler.stop("answer_1")
    await asyncio.wait([ending])
    await call.peer.say(bytes(16_000) + echo)  # after the guard's half second the same is speech
    await call.reported("SPEECH_STARTED")


async def test_a_lost_microphone_packet_is_a_hole_and_speech_still_heard(call, sentence):
    """Our buffer is in place: a hole of 20 ms, and nothing waits for the missing packet."""
    transport = call.peer.connection.getSenders()[0].transport
    send, sizes = transport._send_rtp, []

    async def lossy(data: bytes) -> None:
        if not 192 <= data[1] <= 223:  # RTCP is not media
            sizes.append(len(data))
        if len(sizes) != 10:
            await send(data)

    hear, heard_pts = call.handler._microphone.hear, []

    def noting(frame: av.AudioFrame) -> None:
        heard_pts.append(frame.pts)
        hear(frame)

    transport._send_rtp, call.handler._microphone.hear = lossy, noting
    await call.peer.say(sentence)
    await call.reported("SPEECH_STARTED")
    assert [later - pts for pts, later in pairwise(heard_pts) if later - pts != 960] == [2 * 960]


async def test_a_peer_that_hangs_up_is_reported_once(call):
    """HANDLER_DETACHED, a stopped playback, a released recogniser; then silence, and closing is still allowed."""
    _, ending = say(call, "answer_1", tone(3000))
    await call.peer.hears_agent()
    await call.peer.close()
    detached = await call.reported("HANDLER_DETACHED")
    assert detached.reason == "peer connection closed"
    with pytest.raises(PlaybackStopped):
        await ending
    await call.handler.close()
    await call.handler.close()
    assert call.types().count("HANDLER_DETACHED") == 1
    assert call.stt.recognizer.calls[-1] == "close"
    late = call.handler.play("answer_2", lambda: None, lambda _: None)
    with pytest.raises(PlaybackStopped):
        await late.write(tone(20))
    call.handler.set_microphone("open")
    call.handler.finish_utterance()


async def test_a_handler_says_how_long_its_caller_has_not_heard_it(call, sentence):
    """Nothing while packets come; then the gap, and what was under way."""
    await call.peer.say(sentence)
    assert call.handler.unheard_ms == 0
    call.peer.connection.getTransceivers()[0].sender.replaceTrack(None)
    (transport,) = {one.receiver.transport for one in call.peer.connection.getTransceivers()}
    transport._send_rtp = lambda _: asyncio.sleep(0)
    silent_s = time.monotonic()
    while not call.handler.unheard_ms:  # noqa: ASYNC110 - it is a clock
        await asyncio.sleep(0.01)
    assert 400 <= call.handler.unheard_ms <= (time.monotonic() - silent_s) * 1000 + 300


async def test_a_closed_handler_reports_nothing(call, sentence):
    """Not even that it is gone: whoever closed it knows."""
    speaking = asyncio.create_task(call.peer.say(sentence))
    await call.reported("SPEECH_STARTED")
    await asyncio.gather(call.handler.close(), call.handler.close())
    known = call.types()
    call.stt.transcribe(Transcript("too late", is_final=True))
    await call.peer.until(lambda: call.peer.connection.connectionState == "closed")
    assert call.types() == known
    speaking.cancel()


async def test_a_peer_that_never_comes_is_given_up(make_call):
    """Answered, but no connection within connect_timeout_ms."""
    settings = MediaSettings(ice_host_addresses=("127.0.0.1",), connect_timeout_ms=50)
    call = await make_call(settings, answer=False)
    detached = await call.reported("HANDLER_DETACHED")
    assert detached.reason == "not connected within 50 ms"


async def test_only_the_configured_addresses_are_offered():
    """Loopback alone when so configured; a connection without the setting is not touched by it."""
    for settings, expected in ((ON_LOOPBACK, {"127.0.0.1"}), (MediaSettings(), None)):
        peer = CallPeer()
        handler, answer = await accept(await peer.offer(), settings)
        offered = set(re.findall(r"a=candidate:\S+ \d udp \d+ (\S+)", answer))
        assert offered == expected if expected else "127.0.0.1" not in offered
        await handler.close()
        await peer.close()


@pytest.mark.parametrize("change", ["nonsense", "no opus", "takes no audio"])
async def test_an_offer_that_cannot_be_answered_is_refused_in_words(change):
    """OfferRefused, and no recogniser is opened for it."""
    peer = CallPeer()
    offer = await peer.offer()
    if change == "nonsense":
        offer = "v=0\r\nm=audio what is this"
    elif change == "no opus":
        offer = offer.replace("opus/48000/2", "ilbc/8000")
        offer = re.sub(r"a=rtpmap:\d+ PCM.*\r\n", "", offer)
        offer = re.sub(r"(m=audio \d+ \S+).*\r\n", r"\1 96\r\n", offer)
    else:
        offer = offer.replace("a=sendrecv", "a=sendonly")
    stt = RememberingSpeechToText()
    with pytest.raises(OfferRefused):
        await accept(offer, ON_LOOPBACK, stt)
    assert not hasattr(stt, "recognizer")
    await peer.close()


async def test_a_caller_who_only_listens_is_welcome():
    """No microphone, no error: the agent can still be heard."""
    peer = CallPeer()
    handler, answer = await accept((await peer.offer()).replace("a=sendrecv", "a=recvonly"), ON_LOOPBACK)
    assert "a=sendonly" in answer
    await handler.close()
    await peer.close()


async def test_what_is_offered_besides_audio_is_declined(sentence):
    """A camera would fill a queue that nobody reads. The call itself goes on."""
    peer = CallPeer()
    peer.connection.addTransceiver("video")
    handler, answer = await accept(await peer.offer(), ON_LOOPBACK)
    await peer.answered(answer)
    assert re.findall(r"a=(sendrecv|sendonly|recvonly|inactive)", answer) == ["sendrecv", "inactive"]
    await peer.until(lambda: len(peer.packets) > 2)
    await handler.close()
    await peer.close()


async def test_without_speech_to_text_there_is_no_call():
    """The service's own error reaches the caller, and nothing is left open."""

    class Down:
        async def open(self, on_transcript, on_error, speaker):
            raise ServiceError("speech-to-text is down")

    peer = CallPeer()
    with pytest.raises(ServiceError, match="is down"):
        await accept(await peer.offer(), ON_LOOPBACK, Down())
    await peer.close()


async def accept(offer: str, settings: MediaSettings, stt=None) -> tuple[MediaHandler, str]:
    return await MediaHandler.accept(
        offer,
        handler_id="fastrtc_1",
        session_id="auto_session_1",
        stt=stt or RememberingSpeechToText(),
        report=lambda _: None,
        tell_client=lambda _: None,
        settings=settings,
    )
