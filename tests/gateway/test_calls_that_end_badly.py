"""A connection that ends is said to have ended at once, whatever its media connection or a service does afterwards."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from events.inputs import ClientDisconnected, HandlerAttached, HandlerDetached
from orchestrator.media import handler as media_handler
from tests.gateway.talker import Service, Talker
from tests.media.peer import CallPeer
from tests.media.stubs import RememberingSpeechToText
from tests.runtime.support import StubHandler

Connect = Callable[..., Awaitable[Talker]]


class StuckHandler(StubHandler):
    """A media connection whose libraries never come to their end."""

    async def close(self) -> None:
        self.closed = True
        await asyncio.Event().wait()


class StuckSpeechToText:
    """Takes callers and never answers; `asked` is set when it has one, `left` when that one is gone."""

    def __init__(self) -> None:
        self.asked, self.left = asyncio.Event(), asyncio.Event()

    async def open(self, *_: object) -> None:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()


@pytest.fixture
def speech_to_text(service: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Puts a speech-to-text in the place of the one that refuses every call."""
    return lambda port: monkeypatch.setattr(service.running.stubs, "open", port.open)


async def test_a_media_connection_that_does_not_close_keeps_nobody(call: Connect, service: Service) -> None:
    """HANDLER_DETACHED and CLIENT_DISCONNECTED are committed while it is still being closed."""
    client = await call()
    session_id = (await client.spoken())["session_id"]
    live = service.running.node.session(session_id)
    handler = live.handler = StuckHandler()
    await client.socket.close()
    await service.running.watch.event(session_id, HandlerDetached)
    await service.running.watch.event(session_id, ClientDisconnected)
    assert handler.closed
    assert live.handler is None
    assert live.client is None


async def test_a_client_that_leaves_while_its_call_is_set_up_has_left(
    call: Connect, service: Service, speech_to_text: Callable[[object], None]
) -> None:
    """What it said meanwhile was answered, and the call that nobody waits for any more is given up."""
    speech_to_text(stuck := StuckSpeechToText())
    client, peer = await call(), CallPeer()
    session_id = (await client.listening())["session_id"]
    await client.say("webrtc_offer", sdp=await peer.offer())
    await stuck.asked.wait()
    await client.say("text", text="hello")
    await client.until("reply")
    await client.socket.close()
    await service.running.watch.event(session_id, ClientDisconnected)
    await stuck.left.wait()
    assert not service.running.watch.all(session_id, HandlerAttached)
    await peer.close()


async def test_a_second_offer_takes_the_place_of_one_that_is_being_answered(
    call: Connect, service: Service, speech_to_text: Callable[[object], None]
) -> None:
    """The client has given the first one up; one call comes of it."""
    speech_to_text(stuck := StuckSpeechToText())
    client, first, second = await call(), CallPeer(), CallPeer()
    session_id = (await client.listening())["session_id"]
    await client.say("webrtc_offer", sdp=await first.offer())
    await stuck.asked.wait()
    speech_to_text(RememberingSpeechToText())
    await client.say("webrtc_offer", sdp=await second.offer())
    answer = await client.until("webrtc_answer")
    await second.answered(answer["sdp"])
    attached = await service.running.watch.event(session_id, HandlerAttached)
    assert attached.handler_id == answer["handler_id"]
    await stuck.left.wait()
    await client.say("goodbye")
    await client.closed()
    await first.close()
    await second.close()


async def test_offers_cost_a_limited_rate(call: Connect) -> None:
    """A few in a row are fine; then the client is told to wait."""
    client = await call()
    await client.listening()
    errors = []
    for _ in range(6):
        await client.say("webrtc_offer", sdp="v=0")
        errors.append((await client.until("error"))["message"])
    assert all("the offer has no audio section" in message for message in errors[:5])
    assert "too many offers: wait a second" in errors[5]
    await client.say("text", text="hello")
    await client.until("reply")


@pytest.mark.parametrize(
    ("part", "words"),
    [("speech-to-text", "speech is not understood here just now"), ("connection", "something broke here")],
)
async def test_a_call_that_is_cancelled_from_within_is_refused_in_words(
    call: Connect, speech_to_text: Callable[[object], None], monkeypatch: pytest.MonkeyPatch, part: str, words: str
) -> None:
    """Nobody cancelled the offer, so the client hears of a failure."""

    async def is_cancelled(*_: object) -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    port = RememberingSpeechToText()
    broken = (port, "open") if part == "speech-to-text" else (media_handler.MediaHandler, "_negotiate")
    monkeypatch.setattr(*broken, is_cancelled)
    speech_to_text(port)
    client, peer = await call(), CallPeer()
    await client.listening()
    await client.say("webrtc_offer", sdp=await peer.offer())
    error = await client.until("error")
    assert error["message"].startswith(f"the call could not be set up: {words}")
    await client.say("text", text="hello")
    await client.until("reply")
    await peer.close()


async def test_a_speech_to_text_that_never_opens_is_told_in_words(
    call: Connect, service: Service, speech_to_text: Callable[[object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversation goes on in text."""
    monkeypatch.setattr(media_handler, "OPEN_WITHIN_S", 0.05)
    speech_to_text(StuckSpeechToText())
    client, peer = await call(), CallPeer()
    await client.listening()
    await client.say("webrtc_offer", sdp=await peer.offer())
    error = await client.until("error")
    assert error["message"].startswith("the call could not be set up: speech is not understood here just now")
    await client.say("text", text="hello")
    await client.until("reply")
    await peer.close()
