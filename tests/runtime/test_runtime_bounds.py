"""Bounds: what was handled is trimmed, what nobody has read is not, and what goes wrong stays small."""

import asyncio

import pytest

from events.codec import encode
from events.derived import EventRejected
from events.inputs import SttFinal, SttPartial
from orchestrator.runtime import shard
from orchestrator.runtime.redis.connection import evalsha, load_scripts
from orchestrator.session.reducer import reduce
from tests.runtime.conftest import Place
from tests.runtime.support import Running, soon, soon_in_redis
from tests.runtime.test_runtime_entries import goes_on, line

NODE = 100
"""Entries of a stream that Redis keeps together (stream-node-max-entries): it trims whole such nodes."""


async def test_what_was_handled_leaves_the_inbox_and_the_ingress(running: Running, place: Place) -> None:
    """Both stay short however much goes through; all of it is in the log."""
    live = await running.listening()
    inbox, ingress = place.keys.inbox(place.keys.shard_of(live.session_id)), place.keys.ingress(0)
    async with place.redis.pipeline() as pipeline:
        for number in range(10 * NODE):
            pipeline.xadd(ingress, {"e": line(live.session_id, producer="outside", producer_seq=number + 1)})
        await pipeline.execute()
    await running.watch.event(live.session_id, SttPartial, 10 * NODE)

    async def short() -> bool:
        return max(await place.redis.xlen(inbox), await place.redis.xlen(ingress)) <= 2 * NODE

    await soon_in_redis(short)
    seen = [event.producer_seq for event in running.watch.all(live.session_id, SttPartial)]
    assert seen == list(range(1, 10 * NODE + 1))


@pytest.mark.parametrize(
    ("positions", "kept_from"),
    [({}, 15_000 - 10_000), ({"sql": 14_000}, 15_000 - 10_000), ({"sql": 14_900, "spans": 2_000}, 2_001)],
    ids=["no projection", "one that is up to date", "one that is behind"],
)
async def test_the_feed_keeps_what_a_projection_has_not_read(
    place: Place, positions: dict[str, int], kept_from: int
) -> None:
    """And a stretch for whoever follows; the rest is trimmed: the record is the logs."""
    keys, redis, session_id = place.keys, place.redis, "auto_session_1"
    number = keys.shard_of(session_id)
    await load_scripts(redis)
    await redis.hset(keys.shard(number), mapping={"owner": "token", "cursor": "0-0", "feed": 14_900})
    for first in range(1, 14_901, 1_000):
        async with redis.pipeline(transaction=False) as pipeline:
            for pointer in range(first, min(first + 1_000, 14_901)):
                pipeline.xadd(keys.feed(number), {"s": session_id, "f": pointer, "t": pointer}, id=f"0-{pointer}")
            await pipeline.execute()
    if positions:
        await redis.hset(keys.positions(number), mapping=positions)  # type: ignore[arg-type]
    named = [keys.shard(number), keys.log(session_id), keys.state(session_id), keys.sessions(number)]
    named += [keys.feed(number), keys.inbox(number), keys.positions(number)]
    for step in range(100):
        said = ["token", f"0-{step}", f"0-{step + 1}", step, step + 1, "{}", session_id, "hash", "", ""]
        assert await redis.execute_command(*evalsha("commit", named, said)) == b"OK"  # type: ignore[no-untyped-call]
    ids = [int(entry.decode().partition("-")[2]) for entry, _ in await redis.xrange(keys.feed(number))]
    assert ids == list(range(ids[0], 15_001))
    assert kept_from - NODE < ids[0] <= kept_from
    await redis.delete(*[key async for key in redis.scan_iter(f"{keys.prefix}:*")])


async def test_an_event_on_which_the_reducer_raises_is_set_aside(
    running: Running, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that is needed to run into it again: the event, the version before it. The session goes on."""
    live = await running.listening()

    def fails_on_one(state: shard.State, event: shard.Input) -> shard.Step:
        if isinstance(event, SttPartial) and event.text == "poison":
            raise ZeroDivisionError("a bug of ours")
        return reduce(state, event)

    monkeypatch.setattr(shard, "reduce", fails_on_one)
    before = live.state
    running.node.report(SttPartial(session_id=live.session_id, text="poison"))
    await goes_on(running, live.session_id)
    assert running.node.counters["reducer_failures"] == 1
    stream = place.keys.unroutable(place.keys.shard_of(live.session_id))
    ((_, fields),) = await place.redis.xrange(stream)
    assert fields[b"reason"] == b"the reducer raised ZeroDivisionError", "its text may hold what a caller said"
    assert fields[b"where"].startswith(f"after version {before.version} (LISTENING, {before.hash()})".encode())
    with pytest.raises(ZeroDivisionError):
        fails_on_one(before, shard.decode_input(fields[b"e"]))


async def test_a_session_in_which_one_bug_follows_the_other_ends_politely(
    running: Running, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shard goes on with the others."""
    live, other = await running.listening(), await running.listening()

    def fails(state: shard.State, event: shard.Input) -> shard.Step:
        if event.session_id == live.session_id and isinstance(event, SttFinal):
            raise ZeroDivisionError("a bug of ours")
        return reduce(state, event)

    monkeypatch.setattr(shard, "reduce", fails)
    for number in range(shard.FAILURES_BEFORE_THE_END):
        running.node.report(SttFinal(session_id=live.session_id, text=f"words {number}", via="text"))
    await running.watch.phase(live.session_id, "ENDED")
    await soon(lambda: running.clients[0].ended == ["internal_error"])
    await goes_on(running, other.session_id)


async def test_a_timer_that_cannot_be_handled_ends_the_session(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever waited for it would wait for ever."""
    running.stubs.hold("answer")
    live = await running.listening()
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await running.watch.phase(live.session_id, "THINKING")
    armed = next(c for c in live.state.pending.values() if c.name == "StartTimer")

    def fails(state: shard.State, event: shard.Input) -> shard.Step:
        if isinstance(event, shard.TimerFired):
            raise ZeroDivisionError("a bug of ours")
        return reduce(state, event)

    monkeypatch.setattr(shard, "reduce", fails)
    running.node.report(
        shard.TimerFired(session_id=live.session_id, command_id=armed.command_id, target=armed.target, elapsed_us=1)
    )
    await running.watch.phase(live.session_id, "ENDED")
    assert not running.watch.all(live.session_id, EventRejected)


def test_all_of_an_event_fits_into_what_is_kept_of_poison() -> None:
    """The longest text that an event may have, in the longest characters."""
    longest = SttFinal(session_id="s" * 200, text="😀" * 8_000, via="text", producer="p" * 200, event_id="e" * 1_000)
    assert len(encode(longest)) < shard.MOST_OF_POISON


async def test_what_callers_ask_of_redis_costs_no_shard_its_connection(running: Running) -> None:
    """Far more questions at once than there are connections: each waits for its turn."""
    node = running.node
    shards = set(node.shards)
    asked = [node.use_resume_token(f"auto_session_{number}", 1) for number in range(1_000)]
    assert len(await asyncio.gather(*asked)) == 1_000
    assert len(node._redis.connection_pool._in_use_connections) < 10
    assert set(node.shards) == shards
