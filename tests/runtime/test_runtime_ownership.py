"""Ownership: one owner at a time, clean hand-over, take-over after a loss, and what survives it."""

import asyncio
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from events.derived import CommandIssued
from events.inputs import (
    ClientConnected,
    HandlerAttached,
    PlaybackDone,
    PlaybackStarted,
    RagAnswered,
    ServiceFailed,
    SessionResumed,
    SttFinal,
    SttPartial,
)
from orchestrator.runtime import inbox
from orchestrator.runtime.fleet import lease as leases
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node, RedisSetupError
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.shard import Shard
from orchestrator.session.conversation import Line
from tests.runtime.conftest import MakeNode, Place
from tests.runtime.laws import check_laws
from tests.runtime.redis_server import Server
from tests.runtime.support import Running, StubClient, StubHandler, Stubs, Watch, soon, soon_in_redis


async def thinking(running: Running) -> str:
    """A session that waits for its answer."""
    live = await running.listening()
    running.stubs.hold("answer")
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await soon(lambda: bool(running.stubs.keys("answer")))
    return live.session_id


async def test_a_second_node_takes_over_at_once_when_the_first_stops(make_node: MakeNode) -> None:
    """It owns nothing before; after it goes on with the session and asks again under the same key."""
    first = await make_node(lease_ms=60_000)
    session_id = await thinking(first)
    second = await make_node(lease_ms=300)
    assert not second.node.ready
    await first.node.stop()
    assert first.stubs.cancelled == ["answer"]
    assert first.clients[0].sent_away == ["the service is stopping"]
    assert first.clients[0].ended == []
    resumed = await second.watch.event(session_id, SessionResumed)
    assert resumed.incarnation != first.watch.events[session_id][0].incarnation
    await second.watch.event(session_id, RagAnswered)
    assert second.stubs.keys("answer") == first.stubs.keys("answer")
    again = second.watch.all(session_id, CommandIssued, name="AnswerQuestion")
    before = first.watch.all(session_id, CommandIssued, name="AnswerQuestion")
    assert [command.retry_of for command in again] == [before[0].command_id]
    assert again[0].command_id != before[0].command_id


async def test_a_client_comes_back_to_the_next_node_with_the_same_token(make_node: MakeNode) -> None:
    """The key of the resume tokens is the same on every node and after every restart, and so is which were used."""
    first = await make_node()
    live = await first.listening()
    secret = first.node.secret
    assert await first.node.use_resume_token(live.session_id, 2)
    await first.node.stop()
    second = await make_node()
    await second.watch.event(live.session_id, SessionResumed)
    assert second.node.secret == secret
    assert not await second.node.use_resume_token(live.session_id, 1)
    assert await second.node.use_resume_token(live.session_id, 2)
    back = second.node.session(live.session_id)
    assert back is not None
    second.node.connect_client(back, StubClient("browser-2"))
    await second.watch.event(live.session_id, ClientConnected)
    second.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await second.watch.phase(live.session_id, "SPEAKING")


async def test_an_answer_goes_on_when_its_client_has_come_back_to_the_new_owner(make_node: MakeNode) -> None:
    """The first node stops while it shows the answer. The next one issues it again and waits for the client."""

    class Hanging(StubClient):
        async def show_reply(self, playback_id: str, text: str) -> None:
            await asyncio.Event().wait()

    first = await make_node()
    live = await first.listening(Hanging())
    first.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await first.watch.event(live.session_id, PlaybackStarted)
    await first.node.stop()
    second = await make_node()
    again = await second.watch.event(live.session_id, CommandIssued, name="Speak")
    back, client = second.node.session(live.session_id), StubClient("browser-2")
    assert again.retry_of
    assert back is not None
    await soon(lambda: any(task.get_name().endswith(":answer-1") for task in asyncio.all_tasks()))
    await asyncio.sleep(0)  # it has begun, and found nobody
    second.node.connect_client(back, client)
    await second.watch.event(live.session_id, PlaybackDone)
    assert client.shown == ["You said hello."]
    assert not second.watch.all(live.session_id, ServiceFailed)


async def moved_while_it_speaks(make_node: MakeNode) -> tuple[Running, LiveSession, StubClient]:
    """A call whose owner stops in the middle of an answer; the client is back, the call is not yet."""
    first = await make_node()
    live = await first.listening()
    live.handler = StubHandler(plays_to_the_end=False)
    first.node.report(HandlerAttached(session_id=live.session_id, handler_id=live.handler.handler_id))
    first.node.report(SttFinal(session_id=live.session_id, text="hello"))
    await first.watch.event(live.session_id, PlaybackStarted)
    await first.node.stop()
    second = await make_node()
    await second.watch.event(live.session_id, CommandIssued, name="Speak")
    back, client = second.node.session(live.session_id), StubClient("browser-2")
    assert back is not None
    second.node.connect_client(back, client)
    await second.watch.event(live.session_id, ClientConnected)
    return second, back, client


async def test_an_answer_goes_on_aloud_in_the_call_that_follows_its_client(make_node: MakeNode) -> None:
    """A client comes back with its WebSocket first; who was in a call must not read the rest of the sentence."""
    second, back, client = await moved_while_it_speaks(make_node)
    back.handler = handler = StubHandler("fastrtc_2")
    second.node.report(HandlerAttached(session_id=back.session_id, handler_id=handler.handler_id))
    await second.watch.event(back.session_id, PlaybackDone)
    assert "play answer-1" in handler.told
    assert client.shown == []


async def test_an_answer_is_shown_when_no_call_follows_its_client(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for long: the microphone may be gone for good."""
    monkeypatch.setattr("orchestrator.runtime.live_session.CALL_FOLLOWS_S", 0.05)
    second, back, client = await moved_while_it_speaks(make_node)
    await second.watch.event(back.session_id, PlaybackDone)
    assert client.shown == ["You said hello."]


async def test_the_conversation_so_far_goes_along_to_the_new_owner(make_node: MakeNode) -> None:
    """It is read from the log: a question that is asked again has the same lines as the first time."""
    first = await make_node()
    live = await first.listening()
    first.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await first.watch.phase(live.session_id, "LISTENING", 2)
    first.stubs.hold("answer")
    first.node.report(SttFinal(session_id=live.session_id, text="and now?", via="text"))
    await soon(lambda: len(first.stubs.keys("answer")) == 2)
    await first.node.stop()
    second = await make_node()
    await second.watch.event(live.session_id, RagAnswered)
    (again,) = [request for stage, request in second.stubs.asked if stage == "answer"]
    assert again.conversation == (Line("user", "hello"), Line("agent", "You said hello."))
    assert again == [request for stage, request in first.stubs.asked if stage == "answer"][-1]


async def test_a_take_over_that_redis_interrupts_is_tried_again(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no bug of ours, so it is said in a line, without a traceback."""
    take_over, interrupted = Shard.take_over, []

    async def interrupt_the_first(shard: Shard) -> None:
        if not interrupted:
            interrupted.append(shard.lease.what.name)
            raise ConnectionResetError("Connection lost")
        await take_over(shard)

    monkeypatch.setattr(Shard, "take_over", interrupt_the_first)
    running = await make_node(lease_ms=300)
    await soon(lambda: len(running.node.shards) == 4)
    (said,) = [record for record in caplog.records if "could not be taken over" in record.getMessage()]
    assert said.getMessage() == f"{interrupted[0]} could not be taken over: Connection lost"
    assert said.exc_info is None


async def test_a_node_whose_lease_was_taken_does_nothing_more(make_node: MakeNode, place: Place) -> None:
    """Somebody else acquires the shard: no commit, no effect, its stages are cancelled; later it may own it again."""
    running = await make_node(lease_ms=60_000)
    session_id = await thinking(running)
    number = place.keys.shard_of(session_id)
    await place.redis.delete(place.keys.lease(number))
    what = leases.shard(place.keys, number)
    (thief,) = await leases.acquire(place.redis, [what], 60_000, "elsewhere")
    version = await place.redis.hget(place.keys.state(session_id), "version")
    running.stubs.release("answer")
    await soon(lambda: number not in running.node.shards)
    await soon(lambda: bool(running.clients[0].sent_away))
    assert await place.redis.hget(place.keys.state(session_id), "version") == version
    assert running.clients[0].shown == []
    assert running.node.session(session_id) is None
    assert len(running.node.shards) == 3
    await leases.release(place.redis, [thief])


async def test_a_lease_that_expired_unnoticed_is_lost_for_good(make_node: MakeNode, place: Place) -> None:
    """A node that was paused too long takes the shard again under a new token, with SESSION_RESUMED."""
    running = await make_node(lease_ms=200)
    live = await running.listening()
    number = place.keys.shard_of(live.session_id)
    token = running.node.shards[number].lease.token
    await place.redis.delete(place.keys.lease(number))
    await running.watch.event(live.session_id, SessionResumed)
    assert running.node.shards[number].lease.token != token


class SlowClient(StubClient):
    """A client that leaves only when the test allows it."""

    def __init__(self) -> None:
        super().__init__()
        self.leaving, self.may_leave = asyncio.Event(), asyncio.Event()

    async def send_away(self, reason: str, address: str = "") -> None:
        self.leaving.set()
        await self.may_leave.wait()
        await super().send_away(reason, address)


async def test_work_that_ends_slowly_costs_no_other_lease(
    make_node: MakeNode, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Giving one shard up may take longer than a lease lasts: the others are renewed meanwhile."""
    monkeypatch.setattr("orchestrator.runtime.live_session.END_S", 60.0)
    running, done = await make_node(lease_ms=600), asyncio.Event()

    async def slow() -> None:
        await done.wait()

    live = await running.listening()
    live.watch(asyncio.create_task(slow(), name="slow"))
    number = place.keys.shard_of(live.session_id)
    others = {n: shard.lease.token for n, shard in running.node.shards.items() if n != number}
    await place.redis.delete(place.keys.lease(number))
    await soon(lambda: number not in running.node.shards)
    lease = place.keys.lease(next(iter(others)))
    renewed = time.monotonic() + 1.5
    await soon_in_redis(lambda: _is_after(renewed))
    assert await place.redis.exists(lease)
    assert {n: shard.lease.token for n, shard in running.node.shards.items()} == others
    done.set()
    await soon(lambda: number in running.node.shards)


async def test_no_shard_waits_for_the_client_of_another_that_leaves_slowly(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was restarted. All sessions go on here at once, also that of the slow client. A stop waits for it."""
    monkeypatch.setattr("orchestrator.runtime.live_session.END_S", 60.0)
    running, slow = await make_node(lease_ms=60_000), SlowClient()
    lives = await running.two_listening(slow)
    running.lose_everything()
    for live in lives:
        await running.watch.event(live.session_id, SessionResumed)
    assert slow.leaving.is_set()
    assert not slow.sent_away
    await soon(lambda: len(running.node.shards) == 4)
    stopping = asyncio.create_task(running.node.stop())
    await soon(lambda: not running.node.shards)
    assert not stopping.done()
    slow.may_leave.set()
    await stopping
    assert slow.sent_away


async def _is_after(moment: float) -> bool:
    return time.monotonic() > moment


async def test_a_client_that_breaks_while_it_is_sent_away_keeps_nobody_from_going_on(
    make_node: MakeNode, place: Place
) -> None:
    """The shard is owned again, and the keeper of leases lives."""
    running = await make_node(lease_ms=200)

    class BrokenClient(StubClient):
        async def send_away(self, reason: str, address: str = "") -> None:
            raise ZeroDivisionError

    live = await running.listening(BrokenClient())
    for number in (1, 2):
        await place.redis.delete(place.keys.lease(place.keys.shard_of(live.session_id)))
        await running.watch.event(live.session_id, SessionResumed, number)


async def test_a_log_that_cannot_be_read_keeps_the_other_sessions_alive(
    make_node: MakeNode, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """A session of a newer release is left alone, in words; its shard is taken over all the same."""
    first = await make_node()
    live = await first.listening()
    await first.node.stop()
    number = place.keys.shard_of(live.session_id)
    stranger = next(sid for n in range(1000) if place.keys.shard_of(sid := f"auto_session_x{n}") == number)
    await place.redis.sadd(place.keys.sessions(number), stranger)
    await place.redis.xadd(place.keys.log(stranger), {"e": b'{"type":"FROM_THE_FUTURE"}'}, id="0-1")
    second = await make_node()
    await second.watch.event(live.session_id, SessionResumed)
    assert f"{stranger} cannot be taken over: unknown event type" in caplog.text
    assert second.node.counters["unrecoverable"] == 1
    await second.node.stop()
    await place.redis.delete(place.keys.log(stranger))
    await place.redis.srem(place.keys.sessions(number), stranger)


async def test_another_number_of_shards_is_refused_in_words(make_node: MakeNode, place: Place) -> None:
    """It names both numbers and says what to do."""
    await make_node()
    keys = Keys(shards=8, prefix=place.keys.prefix)
    node = Node(place.url, Stubs().services(), observer=Watch(), keys=keys)
    with pytest.raises(RedisSetupError, match=r"with 4 shards, not 8.*use 4, or another key prefix"):
        await node.start()
    await node.stop()


async def test_a_node_that_finds_no_redis_says_so_and_stops(tmp_path: Path) -> None:
    """start raises a RedisError; stop ends at once."""
    node = Node(f"unix://{tmp_path}/nothing.sock", Stubs().services(), observer=Watch())
    with pytest.raises(RedisError):
        await node.start()
    async with asyncio.timeout(1):
        await node.stop()


async def test_a_server_that_was_killed_and_started_again_loses_nothing(server: Server) -> None:
    """The node gives its shards up, takes them again and goes on with the conversation."""
    stubs, watch, client = Stubs(), Watch(), StubClient()
    keys = Keys(shards=4)
    node = Node(server.url, stubs.services(), observer=watch, keys=keys, lease_ms=600)
    await node.start()
    running = Running(node, stubs, watch)
    live = await running.listening(client)
    node.report(SttPartial(session_id=live.session_id, text="before"))
    await watch.event(live.session_id, SttPartial)
    await server.kill()
    node.report(SttPartial(session_id=live.session_id, text="while it is away"))
    await server.start()
    await watch.event(live.session_id, SessionResumed)
    node.report(SttPartial(session_id=live.session_id, text="after"))
    await watch.event(live.session_id, SttPartial, text="after")
    texts = [event.text for event in watch.all(live.session_id, SttPartial)]
    assert texts == ["before", "while it is away", "after"]
    assert client.sent_away
    await node.stop()
    async with Redis.from_url(server.url) as redis:
        assert await check_laws(redis, keys) == 1


async def test_a_node_stops_although_redis_is_away(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be appended is counted in the log; nothing hangs."""
    monkeypatch.setattr(inbox, "CLOSE_S", 0.2)
    node = Node(server.url, Stubs().services(), observer=Watch(), keys=Keys(shards=4))
    await node.start()
    await server.kill()
    node.report(SttPartial(session_id="auto_session_1", text="never arrives"))
    async with asyncio.timeout(10):
        await node.stop()
    assert "1 events could not be appended" in caplog.text
    await server.start()
