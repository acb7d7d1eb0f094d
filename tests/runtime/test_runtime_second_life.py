"""A Redis that comes back without its last writes: what is gone is said exactly, and nobody gets a wrong answer."""

import re
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError

from events.codec import encode
from events.derived import TurnStarted
from events.inputs import RagAnswered, SessionCloseRequested, SessionResumed, SttFinal, SttPartial
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.node import Node
from orchestrator.runtime.redis.connection import evalsha, run_all
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import read_log
from orchestrator.runtime.redis.lost_writes import OVER_S, REMEMBERED, SILENT_S, Committed
from tests.runtime.conftest import Place
from tests.runtime.laws import check_laws
from tests.runtime.redis_server import Server
from tests.runtime.support import Running, Stubs, Watch, soon, soon_in_redis

KEYS = Keys(shards=1)


async def started(server: Server) -> Running:
    stubs, watch = Stubs(), Watch()
    node = Node(server.url, stubs.services(), observer=watch, keys=KEYS, lease_ms=600)
    await node.start()
    return Running(node, stubs, watch)


async def set_back(server: Server, length: int) -> None:
    """Killed, and started again with what it had at that length of its file."""
    await server.kill()
    server.cut(length)
    await server.start()


def lost(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, int]]:
    """What the node said is gone: session, first and last version."""
    found = [re.search(r"Redis lost versions (\d+) to (\d+) of (\S+), which", message) for message in caplog.messages]
    return [(match[3], int(match[1]), int(match[2])) for match in found if match]


async def test_lost_versions_are_named_and_counted(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Exactly those that were committed and are gone. Events of ours that were accepted come again: no word is lost."""
    running = await started(server)
    live = await running.listening()
    running.node.report(SttPartial(session_id=live.session_id, text="kept"))
    await running.watch.event(live.session_id, SttPartial, text="kept")
    length, kept = server.written, live.state.version
    for text in ("lost", "lost too"):
        running.node.report(SttPartial(session_id=live.session_id, text=text))
    await running.watch.event(live.session_id, SttPartial, text="lost too")
    newest = live.state.version
    await set_back(server, length)
    await running.watch.event(live.session_id, SttPartial, 2, text="lost too")
    assert lost(caplog) == [(live.session_id, kept + 1, newest)]
    assert running.node.counters["lost_versions"] == newest - kept
    async with Redis.from_url(server.url) as redis:
        log = await read_log(redis, KEYS, live.session_id)
        assert [event.text for event in log if isinstance(event, SttPartial)] == ["kept", "lost", "lost too"]
        await running.node.stop()
        assert await check_laws(redis, KEYS) == 1


@pytest.mark.parametrize("reads", [0, 1])
async def test_versions_are_compared_again_when_redis_has_loaded_its_data(
    reads: int, place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it loads, it tells its run id and no log. All that is lost is named afterwards, once."""
    counters, read = Counters(), place.redis.xrange
    committed = Committed(place.redis, place.keys, counters)
    for version in (1, 2, 3):
        committed.note("auto_session_1", "first life", version, "hash")
    replies = iter([read] * reads)

    async def loading(*arguments: Any) -> Any:
        if (reply := next(replies, None)) is None:
            raise BusyLoadingError("Redis is loading the dataset in memory")
        return await reply(*arguments)

    monkeypatch.setattr(place.redis, "xrange", loading)
    await committed.compare(lambda _: "second life")
    assert "is not known yet: Redis is loading the dataset in memory" in caplog.text
    monkeypatch.setattr(place.redis, "xrange", read)
    for _ in range(2):
        await committed.compare(lambda _: "second life")
    assert lost(caplog) == [("auto_session_1", 1, 3)]
    assert counters["lost_versions"] == 3


async def add(place: Place, session_id: str, version: int, state_hash: str) -> None:
    """A step in the log of a session that ends with this version and digest."""
    event = SttPartial(session_id=session_id, text="hel", version=version, state_hash=state_hash)
    await place.redis.xadd(place.keys.log(session_id), {"e": encode(event)}, id=f"0-{version}")


@pytest.mark.parametrize("kept", [50, 52])
async def test_versions_of_an_owner_before_this_one_are_not_lost(
    kept: int, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """After a takeover at version 50 the node has committed 51 to 54. Of these alone it knows that they are gone."""
    counters, session_id = Counters(), "auto_session_1"
    committed = Committed(place.redis, place.keys, counters)
    for version in range(50, kept + 1, 2):
        await add(place, session_id, version, "hash")
    for version in (52, 54):
        committed.note(session_id, "first life", version, "hash", events=2)
    await committed.compare(lambda _: "second life")
    assert lost(caplog) == [(session_id, kept + 1, 54)]
    assert counters["lost_versions"] == 54 - kept
    await place.redis.delete(place.keys.log(session_id))


async def test_versions_of_an_owner_in_between_are_not_counted(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """A session that came back to this node, and lost its end: the node in between counts its own versions."""
    counters, session_id = Counters(), "auto_session_1"
    committed = Committed(place.redis, place.keys, counters)
    for version in (51, 52, 61, 62):
        committed.note(session_id, "first life", version, "hash")
    await add(place, session_id, 51, "hash")
    await committed.compare(lambda _: "second life")
    assert lost(caplog) == [(session_id, 52, 52), (session_id, 61, 62)]
    assert counters["lost_versions"] == 3
    await place.redis.delete(place.keys.log(session_id))


async def test_of_a_long_session_the_remembered_versions_count(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """What is older than all that is remembered is not said to be gone."""
    counters = Counters()
    committed = Committed(place.redis, place.keys, counters)
    for version in range(1, REMEMBERED + 11):
        committed.note("auto_session_1", "first life", version, "hash")
    await committed.compare(lambda _: "second life")
    assert lost(caplog) == [("auto_session_1", 11, REMEMBERED + 10)]
    assert counters["lost_versions"] == REMEMBERED


async def test_a_log_that_cannot_be_read_stops_no_look(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """A newer node has gone on in it. The other sessions are compared, also at the next look."""
    counters = Counters()
    committed = Committed(place.redis, place.keys, counters)
    for session_id in ("auto_session_1", "auto_session_2"):
        committed.note(session_id, "first life", 1, "hash")
    await place.redis.xadd(place.keys.log("auto_session_1"), {"e": b'{"type":"NEWER"}'}, id="0-1")
    for _ in range(2):
        await committed.compare(lambda _: "second life")
    assert lost(caplog) == [("auto_session_2", 1, 1)]
    assert caplog.text.count("whether versions of auto_session_1 are lost is not known") == 1
    await place.redis.delete(place.keys.log("auto_session_1"))


async def test_after_a_takeover_the_versions_of_the_new_owner_are_named(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The log begins with another node's versions, and Redis has kept them."""
    first = await started(server)
    live = await first.listening()
    await first.node.stop()
    length, kept = server.written, live.state.version
    second = await started(server)
    await second.watch.event(live.session_id, SessionResumed)
    newest = max(event.version for event in second.watch.events[live.session_id])
    await set_back(server, length)
    await second.watch.event(live.session_id, SessionResumed, 2)
    assert lost(caplog) == [(live.session_id, kept + 1, newest)]
    assert second.node.counters["lost_versions"] == newest - kept
    await second.node.stop()


async def test_where_nothing_is_lost_nothing_is_said(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A restart by itself is no loss."""
    running = await started(server)
    live = await running.listening()
    await set_back(server, server.written)
    await running.watch.event(live.session_id, SessionResumed)
    assert not lost(caplog)
    assert not [message for message in caplog.messages if "appended again" in message]
    assert running.node.counters["lost_versions"] == 0
    await running.node.stop()


async def test_a_log_that_was_archived_and_deleted_is_not_lost(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """What is left of it in Redis says how long it was."""
    running = await started(server)
    live = await running.listening()
    running.node.report(SessionCloseRequested(session_id=live.session_id))
    await running.watch.phase(live.session_id, "ENDED")
    other = await running.listening()
    async with Redis.from_url(server.url) as redis:
        await redis.delete(KEYS.log(live.session_id))
    await set_back(server, server.written)
    await running.watch.event(other.session_id, SessionResumed)
    assert not lost(caplog)
    await running.node.stop()


@pytest.mark.parametrize(("is_over", "passed_s"), [(True, OVER_S), (False, SILENT_S)])
async def test_a_session_is_forgotten_when_it_cannot_be_lost_any_more(
    is_over: bool, passed_s: float, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """It was purged, after its end or at another node. A server that is the same by then cannot lose it any more."""
    counters, now_s = Counters(), [0.0]
    committed = Committed(place.redis, place.keys, counters, lambda: now_s[0])
    committed.note("auto_session_1", "first life", 1, "hash")
    committed.note("auto_session_1", "first life", 2, "hash", is_over=is_over)
    now_s[0] = passed_s + 1
    await committed.compare(lambda _: "first life")
    await committed.compare(lambda _: "second life")
    assert not lost(caplog)
    assert counters["lost_versions"] == 0


async def test_a_session_that_has_ended_just_now_or_before_an_outage_may_be_lost(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Only where Redis lives on after the end of a session nothing of it can be lost; the time of an outage counts for
    nothing.
    """
    now_s, counters = [0.0], Counters()
    committed = Committed(place.redis, place.keys, counters, lambda: now_s[0])
    committed.note("auto_session_1", "first life", 1, "hash", is_over=True)
    await committed.compare(lambda _: "first life")
    now_s[0] = 10 * OVER_S
    await committed.compare(lambda _: "")
    await committed.compare(lambda _: "second life")
    assert lost(caplog) == [("auto_session_1", 1, 1)]


async def test_a_session_that_was_purged_is_not_lost(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is left in Redis: the node has forgotten it by then."""
    monkeypatch.setattr("orchestrator.runtime.redis.lost_writes.OVER_S", 0)
    running = await started(server)
    live = await running.listening()
    running.node.report(SessionCloseRequested(session_id=live.session_id))
    await running.watch.phase(live.session_id, "ENDED")
    other = await running.listening()
    await soon(lambda: set(running.node._committed._seen) == {other.session_id})
    forget = [KEYS.log(live.session_id), KEYS.state(live.session_id), KEYS.sessions(0)]
    async with Redis.from_url(server.url) as redis:
        purged = await run_all(redis, [evalsha("forget", forget, [live.session_id, live.state.version, "all"])])
    assert purged == [b"OK"]
    await set_back(server, server.written)
    await running.watch.event(other.session_id, SessionResumed)
    assert not lost(caplog)
    assert running.node.counters["lost_versions"] == 0
    await running.node.stop()


async def test_the_answer_to_a_lost_question_is_not_given_to_the_next(server: Server) -> None:
    """The question is gone with the tail. Its answer comes late, and the next question has the same version: it is
    stale, since command ids contain the incarnation.
    """
    running = await started(server)
    live = await running.listening()
    running.stubs.hold("answer")
    length = server.written
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await soon(lambda: bool(running.stubs.keys("answer")))
    question = next(c for c in live.state.pending.values() if c.name == "AnswerQuestion")
    await server.kill()
    server.cut(length)
    running.node._inbox._accepted._last.clear()  # a node that knows nothing of it any more: it was started anew, too
    await server.start()
    await running.watch.event(live.session_id, SessionResumed)
    running.node.report(SttFinal(session_id=live.session_id, text="goodbye", via="text"))
    await soon(lambda: len(running.stubs.keys("answer")) == 2)
    late = RagAnswered(session_id=live.session_id, command_id=question.command_id, answer="You said hello.")
    running.node.report(late)
    running.stubs.release("answer")
    await running.watch.phase(live.session_id, "SPEAKING")
    async with Redis.from_url(server.url) as redis:
        log = await read_log(redis, KEYS, live.session_id)
    asked = [event.text for event in log if isinstance(event, TurnStarted)]
    spoken = [event.payload["text"] for event in log if getattr(event, "name", "") == "Speak"]
    assert (asked, spoken) == (["goodbye"], ["You said goodbye."])
    await running.node.stop()


async def _has_all_words(redis: Redis, session_id: str) -> bool:
    texts = [event.text for event in await read_log(redis, KEYS, session_id) if isinstance(event, SttPartial)]
    return texts == [f"word {number}" for number in range(20)]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.95])
async def test_cut_anywhere_the_service_goes_on(server: Server, share: float) -> None:
    """In the middle of a command, of a script: Redis drops the torn end, and every log that is left obeys the laws."""
    running = await started(server)
    live, other = await running.listening(), await running.listening()
    begun = server.written
    for number in range(20):
        running.node.report(SttPartial(session_id=live.session_id, text=f"word {number}"))
    running.node.report(SttFinal(session_id=other.session_id, text="hello", via="text"))
    await running.watch.phase(other.session_id, "LISTENING", 2)
    await running.watch.event(live.session_id, SttPartial, 20)
    await set_back(server, begun + int((server.written - begun) * share))
    await running.watch.event(live.session_id, SessionResumed)
    async with Redis.from_url(server.url) as redis:
        await soon_in_redis(lambda: _has_all_words(redis, live.session_id))
    fresh = await running.listening()
    running.node.report(SttFinal(session_id=fresh.session_id, text="hello", via="text"))
    await running.watch.phase(fresh.session_id, "LISTENING", 2)
    await running.node.stop()
    async with Redis.from_url(server.url) as redis:
        assert await check_laws(redis, KEYS) == 3
