"""Whole calls: a handler and an aiortc peer over loopback, with real Opus and real voice detection."""

import asyncio
import re
from itertools import pairwise

import av
import pytest

from orchestrator.media.handler import MediaHandler, OfferRefused
from orchestrator.media.ice import without_mdns_candidates
from orchestrator.media.opus import silence
from orchestrator.media.playback import PlaybackEnd, PlaybackStopped
from orchestrator.media.settings import MediaSettings
from orchestrator.services.ports import ServiceError, SpeechChunk, Transcript
from tests.media.peer import CallPeer
from tests.media.speech import resample, scaled
from tests.media.stubs import ON_LOOPBACK, RememberingSpeechToText

SILENCE = silence()


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
    last_speech = max(p.rtp_timestamp for p in call.peer.packets if p.payload != SILENCE)
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
    assert await call.peer.gets(10, from_rtp=next_rtp) == [SILENCE] * 10
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
    """OfferRefused, and the recogniser that was opened for it is closed again."""
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
    assert stt.recognizer.calls == ["close"]
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
        async def open(self, on_transcript, on_error):
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


async def test_an_offer_with_hidden_addresses_is_answered_without_looking_them_up():
    """What aiortc gets to see has no such candidate."""
    peer = CallPeer()
    offer = re.sub(r"(a=candidate:\S+ \d udp \d+) \S+", r"\1 8f2e-11.local", await peer.offer())
    handler, _ = await accept(offer, ON_LOOPBACK)
    assert ".local" not in handler._peer.remoteDescription.sdp
    await handler.close()
    await peer.close()


def test_candidates_behind_names_are_not_looked_up():
    """They, and the end mark that would close the list without them, are left out; all else stays."""
    named = "a=candidate:1 1 udp 2113937151 8f2e-11.local 54321 typ host"
    plain = "a=candidate:2 1 udp 2113937151 192.0.2.7 54322 typ host"
    sdp = "\r\n".join(["v=0", named, plain, "a=end-of-candidates", ""])
    assert without_mdns_candidates(sdp) == "\r\n".join(["v=0", plain, ""])
    untouched = "\r\n".join(["v=0", plain, "a=end-of-candidates", ""])
    assert without_mdns_candidates(untouched) == untouched
