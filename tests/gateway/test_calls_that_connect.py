"""A call serves its session from the moment at which its media connection is up, and not before."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from events.derived import CommandIssued
from events.inputs import (
    ClientDisconnected,
    HandlerAttached,
    HandlerDetached,
    PlaybackDone,
    PlaybackStarted,
    TtsChunkReady,
)
from orchestrator.session.policy import Greeting, Policy
from tests.door import joining
from tests.gateway.conftest import LOOPBACK, Serve
from tests.gateway.talker import Service, Talker
from tests.media.peer import CallPeer
from tests.media.stubs import RememberingSpeechToText
from tests.runtime.support import StubHandler

Offered = tuple[Service, Talker, str, str]
"""The service, the client, its session id, and the SDP answer to its offer."""


@pytest.fixture
async def peer() -> AsyncIterator[CallPeer]:
    peer = CallPeer()
    yield peer
    await peer.close()


@pytest.fixture
async def offered(
    serve: Serve, http: aiohttp.ClientSession, peer: CallPeer, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Awaitable[Offered]]:
    """Starts a service and offers it a call. The peer has not taken the answer: its connection is not up yet."""

    async def offer(policy: Policy | None = None, **settings: Any) -> Offered:
        service = await serve(policy=policy, media=replace(LOOPBACK, **settings))
        monkeypatch.setattr(service.running.stubs, "open", RememberingSpeechToText().open)
        client = Talker(await http.ws_connect(f"{service.url}/orchestrate", **joining({})))
        session_id = (await client.until("session"))["session_id"]
        await client.say("webrtc_offer", sdp=await peer.offer())
        return service, client, session_id, (await client.until("webrtc_answer"))["sdp"]

    return offer


async def test_an_answer_waits_for_a_call_that_is_being_connected(
    offered: Callable[..., Awaitable[Offered]], peer: CallPeer
) -> None:
    """Its audio is not sent to nobody, and its deadline does not run out meanwhile: it is spoken from its beginning."""
    service, client, session_id, sdp = await offered()
    watch = service.running.watch
    await client.say("text", text="hello")
    await watch.event(session_id, CommandIssued, name="Speak")
    assert not watch.all(session_id, HandlerAttached)
    await peer.answered(sdp)
    await watch.event(session_id, PlaybackDone)
    kinds = [type(event) for event in watch.events[session_id]]
    first = [kinds.index(kind) for kind in (HandlerAttached, TtsChunkReady, PlaybackStarted)]
    assert first == sorted(first)


async def test_an_answer_does_not_wait_long_for_a_call_that_does_not_connect(
    offered: Callable[..., Awaitable[Offered]], peer: CallPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown as text, and the next one will be without another wait. The call may still connect afterwards."""
    monkeypatch.setattr("orchestrator.runtime.live_session.CALL_FOLLOWS_S", 0.05)
    service, client, session_id, sdp = await offered()
    await client.say("text", text="hello")
    await client.until("phase", phase="LISTENING", reason="playback_done")
    assert "reply" in client.kinds()
    live = service.running.node.session(session_id)
    assert live is not None
    assert live.connecting is None
    assert not service.running.watch.all(session_id, HandlerAttached)
    await peer.answered(sdp)
    await service.running.watch.event(session_id, HandlerAttached)


async def test_a_call_that_is_given_up_does_not_end_the_wait_for_another(
    offered: Callable[..., Awaitable[Offered]], peer: CallPeer
) -> None:
    """A client that came back has offered its own call; the old connection is closed only then."""
    service, client, session_id, _ = await offered()
    live = service.running.node.session(session_id)
    assert live is not None
    newer = live.connecting = StubHandler("fastrtc_2")
    client.socket._response.connection.transport.abort()  # type: ignore[union-attr]
    await service.running.watch.event(session_id, ClientDisconnected)
    assert live.connecting is newer


async def test_a_greeting_is_spoken_in_a_call_that_connects_slowly(
    offered: Callable[..., Awaitable[Offered]], peer: CallPeer
) -> None:
    """When the greeting's timer fires, the call is still being connected: it gets some more time."""
    service, client, session_id, sdp = await offered(Policy(greeting=Greeting(text="Hello.", wait_ms=20)))
    await service.running.watch.event(session_id, CommandIssued, name="Speak")
    await peer.answered(sdp)
    await service.running.watch.event(session_id, PlaybackDone)
    assert service.running.watch.all(session_id, TtsChunkReady)
    assert "reply" not in client.kinds()


async def test_a_call_that_never_connects_leaves_the_conversation_as_it_was(
    offered: Callable[..., Awaitable[Offered]],
) -> None:
    """The client is told so; the log knows nothing of that call."""
    service, client, session_id, _ = await offered(connect_timeout_ms=50)
    error = await client.until("error")
    assert error["code"] == "call_lost"
    assert "not connected within 50 ms" in error["message"]
    await client.say("text", text="hello")
    await client.until("phase", phase="LISTENING", reason="playback_done")
    assert "reply" in client.kinds()
    assert not service.running.watch.all(session_id, HandlerAttached)
    assert not service.running.watch.all(session_id, HandlerDetached)


async def test_a_call_goes_on_until_the_next_one_is_connected(
    offered: Callable[..., Awaitable[Offered]], peer: CallPeer
) -> None:
    """A caller who changes networks may offer early: nothing is cut off before the new way exists."""
    service, _, session_id, sdp = await offered()
    node, watch = service.running.node, service.running.watch
    live = node.session(session_id)
    assert live is not None
    older = live.handler = StubHandler("fastrtc_1")
    node.report(HandlerAttached(session_id=session_id, handler_id=older.handler_id))
    await watch.event(session_id, HandlerAttached)
    assert not watch.all(session_id, HandlerDetached)
    await peer.answered(sdp)
    detached = await watch.event(session_id, HandlerDetached)
    assert (detached.handler_id, detached.reason) == (older.handler_id, "replaced")
    await watch.event(session_id, HandlerAttached, number=2)
    assert older.closed
