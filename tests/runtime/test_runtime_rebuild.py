"""Rebuilding a session: from its snapshot where there is a sound one, else from its whole log."""

import asyncio
import time
from collections.abc import Callable

import pytest

from events.inputs import SessionResumed, SttFinal, SttPartial
from orchestrator.runtime.fleet import membership
from orchestrator.runtime.redis import logs, subscribers
from orchestrator.runtime.redis.connection import connect
from orchestrator.runtime.redis.rebuild import rebuild
from orchestrator.runtime.shard import SNAPSHOT_EVERY
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.conversation import ConversationSoFar
from orchestrator.session.evolve import fold
from orchestrator.session.snapshot import dump
from tests.runtime.conftest import MakeNode, Place
from tests.runtime.proxy import LossyProxy
from tests.runtime.support import PATIENCE_S, Running


async def talked(running: Running) -> str:
    """A session with a log of some snapshots' length, in which something was said and answered."""
    live = await running.listening()
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await running.watch.phase(live.session_id, "LISTENING", 2)
    for number in range(3 * SNAPSHOT_EVERY):
        running.node.report(SttPartial(session_id=live.session_id, text=f"word {number}"))
    await running.watch.event(live.session_id, SttPartial, 3 * SNAPSHOT_EVERY)
    return live.session_id


async def check(running: Running, place: Place, session_id: str) -> None:
    """What is rebuilt is what the log folds to."""
    log, conversation = running.watch.events[session_id], ConversationSoFar()
    conversation.hear(log)
    found = await rebuild(place.redis, place.keys, session_id)
    assert found.state == fold(log)
    assert found.conversation.said == conversation.said
    assert [line.text for line in found.conversation.said] == ["hello", "You said hello."]


async def test_the_log_before_a_snapshot_is_not_read(running: Running, place: Place) -> None:
    """But for its first event, which has the policy: a long call is taken over as fast as a short one."""
    session_id = await talked(running)
    await check(running, place, session_id)
    last = running.watch.events[session_id][-1].version
    entries = [entry.decode() for entry, _ in await place.redis.xrange(place.keys.log(session_id))]
    before = [entry for entry in entries[1:] if int(entry.partition("-")[2]) < last - 2 * SNAPSHOT_EVERY]
    assert before
    copies = {entry: (await place.redis.xrange(place.keys.log(session_id), entry, entry))[0][1] for entry in entries}
    await place.redis.xdel(place.keys.log(session_id), *before)
    await check(running, place, session_id)
    await place.redis.delete(place.keys.log(session_id))
    for entry, fields in copies.items():
        await place.redis.xadd(place.keys.log(session_id), fields, id=entry)  # type: ignore[arg-type]


def other_session(found: bytes, running: Running, session_id: str) -> bytes:
    """A sound snapshot of what the log never was at its version."""
    log = running.watch.events[session_id]
    state = fold(log[: len(log) // 2])
    state.phase = "SPEAKING"
    return dump(state, ConversationSoFar())


@pytest.mark.parametrize(
    "damage",
    [
        lambda found, *_: b"",
        lambda found, *_: b"nonsense",
        lambda found, *_: found[:-5],
        lambda found, *_: found.replace(REDUCER_VERSION.encode(), b"0.0.1"),
        lambda found, *_: found.replace(b'"version":', b'"version":9'),
        other_session,
    ],
    ids=["missing", "nonsense", "cut off", "of another reducer", "ahead of the log", "of another past"],
)
async def test_without_a_sound_snapshot_the_log_is_folded(
    running: Running, place: Place, damage: Callable[[bytes, Running, str], bytes]
) -> None:
    """It is a cache: what is wrong with it costs time, and nothing else."""
    session_id = await talked(running)
    found = await place.redis.hget(place.keys.state(session_id), "snapshot")
    assert isinstance(found, bytes)
    await place.redis.hset(place.keys.state(session_id), "snapshot", damage(found, running, session_id))
    await check(running, place, session_id)


async def test_a_new_owner_goes_on_from_a_snapshot(make_node: MakeNode, place: Place) -> None:
    """The session that it resumes is the one that was, and the laws hold for what follows."""
    first = await make_node()
    session_id = await talked(first)
    await first.node.stop()
    second = await make_node()
    await second.watch.event(session_id, SessionResumed)
    live = second.node.session(session_id)
    assert live is not None
    assert [line.text for line in live.conversation.said] == ["hello", "You said hello."]
    assert live.state.version == first.watch.events[session_id][-1].version + len(second.watch.events[session_id])


@pytest.mark.parametrize("read", ["snapshot", "XRANGE", "committed_us"])
async def test_a_takeover_whose_path_goes_dead_is_tried_again(
    read: str, make_node: MakeNode, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reply comes on that connection, and no error. Others renew the lease meanwhile: no other node would help."""
    first = await make_node()
    session_id = (await first.listening()).session_id
    await first.node.stop()
    monkeypatch.setattr("orchestrator.runtime.redis.wire.TIMEOUT_S", 1.0)
    monkeypatch.setattr(subscribers, "BLOCK_MS", 200)
    monkeypatch.setattr(membership, "BLOCK_S", 0.2)
    async with LossyProxy(place.url.removeprefix("unix://")) as proxy, asyncio.timeout(PATIENCE_S):
        proxy.hold(f"${len(read)}\r\n{read}\r\n".encode())
        second = await make_node(url=proxy.url, lease_ms=600)
        await second.watch.event(session_id, SessionResumed)
        assert proxy.held == 1
        assert second.node.counters["unrecoverable"] == 0
        await second.node.stop()


async def test_a_long_log_has_the_time_limit_for_each_read(
    running: Running, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for all of them: a slow path with a long log would otherwise never be enough for a takeover."""
    live = await running.listening()
    log = running.watch.events[live.session_id]
    monkeypatch.setattr("orchestrator.runtime.redis.wire.TIMEOUT_S", 0.8)
    monkeypatch.setattr(logs, "PAGE", 1)
    async with LossyProxy(place.url.removeprefix("unix://")) as proxy:
        redis = connect(proxy.url)
        await redis.ping()
        proxy.slow_s, since_s = 0.3, time.monotonic()
        assert await logs.read_log(redis, place.keys, live.session_id) == log
        assert time.monotonic() - since_s > 0.8
        await redis.aclose()
