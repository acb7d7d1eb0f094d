"""Redis is slow or away in a call: callers are told, nothing is lost, and memory stays bounded."""

import pytest
from redis.asyncio import Redis

from events.inputs import SttFinal, SttPartial
from orchestrator.runtime import inbox
from orchestrator.runtime.node import Node, NotReadyError
from orchestrator.runtime.redis.keys import Keys
from tests.runtime.laws import check_laws
from tests.runtime.redis_server import Server
from tests.runtime.support import Running, StubClient, StubHandler, Stubs, Watch, soon

KEYS = Keys(shards=2)


@pytest.fixture
async def in_a_call(server: Server) -> Running:
    """A node whose Redis can be frozen."""
    stubs, watch = Stubs(), Watch()
    node = Node(server.url, stubs.services(), observer=watch, keys=KEYS)
    await node.start()
    return Running(node, stubs, watch)


async def test_whoever_speaks_into_a_frozen_redis_is_told_and_answered_later(
    in_a_call: Running, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told once, while it lasts; new calls are refused in words; then all is there, in order."""
    live, other = await in_a_call.listening(), await in_a_call.listening()
    monkeypatch.setattr(inbox, "STALL_S", 0.05)  # not before: a machine that is slow for so long is no stall
    server.freeze()
    for number in range(300):
        in_a_call.node.report(SttPartial(session_id=live.session_id, text=str(number)))
    in_a_call.node.report(SttFinal(session_id=other.session_id, text="hello", via="text"))
    await soon(lambda: [client.warned for client in in_a_call.clients] == [["delayed"], ["delayed"]])
    assert not in_a_call.node.ready
    with pytest.raises(NotReadyError, match="cannot keep what is said right now"):
        in_a_call.node.open_session(StubClient())
    monkeypatch.setattr(inbox, "STALL_S", 60)  # a machine that is slow with what waited begins no second stall
    server.thaw()
    await in_a_call.watch.event(live.session_id, SttPartial, 300)
    texts = [event.text for event in in_a_call.watch.all(live.session_id, SttPartial)]
    assert texts == [str(number) for number in range(300)]
    await in_a_call.watch.phase(other.session_id, "LISTENING", 2)
    await soon(lambda: in_a_call.node.ready)
    assert [client.warned for client in in_a_call.clients] == [["delayed"], ["delayed"]]
    await in_a_call.node.stop()
    async with Redis.from_url(server.url) as redis:
        assert await check_laws(redis, KEYS) == 2


async def test_a_node_whose_redis_is_away_says_for_how_long(in_a_call: Running, server: Server) -> None:
    """Though nobody speaks and it keeps its shards: its callers could not be answered, and somebody is to be told."""
    node = in_a_call.node
    server.freeze()
    await soon(lambda: node.redis_silence_s > 1.5)
    assert node.shards
    server.thaw()
    await soon(lambda: node.redis_silence_s < 1)
    await node.stop()


@pytest.mark.parametrize("before_the_stall", [1, 201], ids=["the limit comes later", "the limit comes first"])
async def test_when_too_much_waits_those_who_speak_are_sent_away(
    in_a_call: Running, server: Server, monkeypatch: pytest.MonkeyPatch, before_the_stall: int
) -> None:
    """Their connections are closed, so no more can come; what was said before is kept and handled."""
    monkeypatch.setattr(inbox, "MOST_QUEUED", 200)
    monkeypatch.setattr("orchestrator.runtime.node.MOST_QUEUED", 200)
    live = await in_a_call.listening()
    live.handler = handler = StubHandler()
    monkeypatch.setattr(inbox, "STALL_S", 0.05)
    server.freeze()
    for number in range(before_the_stall):
        in_a_call.node.report(SttPartial(session_id=live.session_id, text=f"before {number}"))
    await soon(lambda: in_a_call.clients[0].warned == ["delayed"])
    for number in range(201 - before_the_stall):
        in_a_call.node.report(SttPartial(session_id=live.session_id, text=str(number)))
    await soon(lambda: handler.closed and bool(in_a_call.clients[0].sent_away))
    assert in_a_call.node.is_full
    assert in_a_call.node.counters["overflows"] == 1
    server.thaw()
    await in_a_call.watch.event(live.session_id, SttPartial, 201)
    await soon(lambda: not in_a_call.node.is_full)
    await in_a_call.node.stop()
