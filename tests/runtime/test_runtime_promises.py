"""Promised sessions: other nodes and outside producers open them while their client comes back."""

from typing import Any

import pytest

from events.codec import encode
from events.derived import EventRejected
from events.inputs import (
    ClientConnected,
    ClientDisconnected,
    HandlerAttached,
    SessionOpened,
    SessionResumed,
    SttFinal,
    SttPartial,
)
from orchestrator.grant import EVERYTHING
from orchestrator.runtime import shard as shards
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.promises import promise, promised_grant
from orchestrator.session.policy import Policy
from tests.runtime.conftest import Place
from tests.runtime.support import Running, StubClient, StubHandler, a_session_on, soon

OTHER = "node-aaaaaaaaaaaa"


@pytest.fixture
async def promised(place: Place) -> str:
    """The id of a promised session."""
    session_id = a_session_on(place.keys, 1)
    await promise(place.redis, place.keys, session_id, EVERYTHING)
    return session_id


async def returned(running: Running, session_id: str) -> LiveSession:
    """The session, adopted by a client that comes back."""
    live = await running.node.promised(session_id)
    assert live is not None
    running.node.connect_client(live, StubClient("returned"))
    return live


async def open_elsewhere(place: Place, session_id: str, *, leaves: bool = True) -> None:
    """Append what the former node queued: the opening, its client, and that this client was sent away."""
    opened = SessionOpened(
        session_id=session_id, policy=Policy().recorded(), event_id=f"{session_id}:opened", producer=OTHER
    )
    connected = ClientConnected(
        session_id=session_id, client_id="before", event_id=f"{session_id}:before", producer=f"{OTHER}:door"
    )
    left = ClientDisconnected(session_id=session_id, client_id="before", producer=OTHER, producer_seq=3)
    async with place.redis.pipeline(transaction=True) as pipeline:
        for event in (opened, connected, left)[: 3 if leaves else 2]:
            pipeline.xadd(place.keys.inbox(place.keys.shard_of(session_id)), {"e": encode(event)})
        await pipeline.execute()


def is_connected(live: LiveSession, handler_id: str) -> bool:
    """Whether the session has the client and the handler of this node, and waits for no reconnect."""
    state = live.state
    return (state.client_id, state.handler_id, state.timer("reconnect")) == ("returned", handler_id, None)


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_late_opening_of_another_node_leaves_the_client_connected(
    leaves: bool, running: Running, place: Place, promised: str
) -> None:
    """The other node was cut off from Redis when its client spoke, and the client has come back to this node."""
    live = await returned(running, promised)
    await open_elsewhere(place, promised, leaves=leaves)
    await running.watch.event(promised, ClientConnected, client_id="returned")
    running.node.report(HandlerAttached(session_id=promised, handler_id="fastrtc_1"))
    await running.watch.event(promised, HandlerAttached)
    await soon(lambda: is_connected(live, "fastrtc_1"))
    assert running.watch.all(promised, EventRejected) == []
    assert len(running.watch.all(promised, SessionResumed)) == 1


async def test_a_client_that_begins_to_speak_just_before_a_late_opening_stays_connected(
    running: Running, place: Place, promised: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own opening is a duplicate of the late one, and its connections are reported again after SESSION_RESUMED."""
    live = await returned(running, promised)
    shard = running.node.shards[1]
    decide_all = shard._decide_all

    async def after_its_first_words(batch: list[Any]) -> list[shards.Decided]:
        if live.open is not None:
            running.node.begin(live)
            live.handler = StubHandler("fastrtc_1")
            running.node.report(HandlerAttached(session_id=promised, handler_id="fastrtc_1"))
        return await decide_all(batch)

    monkeypatch.setattr(shard, "_decide_all", after_its_first_words)
    await open_elsewhere(place, promised)
    await running.watch.until(lambda: is_connected(live, "fastrtc_1"), "the connections of this node")
    running.node.report(SttFinal(session_id=promised, text="hello", via="text"))
    await running.watch.phase(promised, "LISTENING", 2)
    assert is_connected(live, "fastrtc_1")


@pytest.mark.parametrize("opened_by", ["an outside producer", "another node"])
async def test_a_client_that_returns_while_the_shard_asks_redis_gets_the_same_session(
    opened_by: str, running: Running, place: Place, promised: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard decides about an event of the session meanwhile: a second LiveSession would be without the state."""
    node, came_back = running.node, list[LiveSession]()
    exists = node._redis.exists

    def come_back() -> None:
        if not came_back and (live := node.welcome(promised, EVERYTHING)) is not None:
            node.connect_client(live, StubClient("returned"))
            came_back.append(live)

    async def grant_meanwhile(*about: Any) -> Any:
        grant = await promised_grant(*about)
        come_back()
        return grant

    async def exists_meanwhile(*keys: Any) -> Any:
        found = await exists(*keys)
        if keys == (place.keys.state(promised),):
            come_back()
        return found

    monkeypatch.setattr(shards, "promised_grant", grant_meanwhile)
    monkeypatch.setattr(node._redis, "exists", exists_meanwhile)
    if opened_by == "another node":
        await open_elsewhere(place, promised)
    else:
        said = SttPartial(session_id=promised, text="hel", event_id="outside-1")
        await place.redis.xadd(place.keys.inbox(1), {"e": encode(said)})
    await running.watch.event(promised, ClientConnected, client_id="returned")
    node.report(SttFinal(session_id=promised, text="hello", via="text"))
    await running.watch.phase(promised, "LISTENING", 2)
    (live,) = came_back
    assert node.session(promised) is live
    assert is_connected(live, "")
    assert node._inbox.clocks[promised] is live.timers.clock
    assert isinstance(live.client, StubClient)
    assert live.client.shown == ["You said hello."]
    assert node.counters["dead_letters"] == 0
