"""Clocks that are set, and nodes with different ones: session time goes on at the rate of real time."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from events.derived import CommandIssued, StateChanged
from events.inputs import BargeIn, HandlerAttached, SessionResumed, SpeechStarted, SpeechStopped, SttFinal, TimerFired
from orchestrator.runtime import clock as clocks
from orchestrator.runtime.clock import LONGEST_GAP_US, SteadyClock, after_takeover
from orchestrator.runtime.fleet import lease as leases
from orchestrator.runtime.fleet.membership import Membership
from orchestrator.runtime.history.lag import Lag
from orchestrator.session.policy import Goodbye, Policy
from tests.runtime.conftest import MakeNode, Place
from tests.runtime.support import Running, StubHandler, soon, soon_in_redis

HOUR_US = 3_600_000_000
STEPS_US = (-HOUR_US, -20_000_000, -2_000_000, 2_000_000, 20_000_000, HOUR_US)
SLACK_US = 1_500_000
"""For a busy machine. Every step of a clock here is longer."""

Step = Callable[[int], None]


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Step]:
    """Sets the wall clock of this process."""
    real, off_ns = time.time_ns, 0

    def step(by_us: int) -> None:
        nonlocal off_ns
        off_ns += by_us * 1000

    monkeypatch.setattr(time, "time_ns", lambda: real() + off_ns)
    monkeypatch.setattr(time, "time", lambda: (real() + off_ns) / 1e9)
    return step


async def lasts_us(work: Any) -> int:
    """How long something takes, by a clock that nobody sets."""
    began = time.monotonic_ns()
    await work
    return (time.monotonic_ns() - began) // 1000


@pytest.mark.parametrize("by_us", STEPS_US)
async def test_a_clock_that_is_set_changes_no_wait(running: Running, step: Step, by_us: int) -> None:
    """The end of an utterance is noticed, and INTERRUPT is over, as soon as ever."""
    live = await running.listening()
    node, watch, session_id = running.node, running.watch, live.session_id
    node.report(SpeechStarted(session_id=session_id))
    node.report(SpeechStopped(session_id=session_id, duration_ms=500))
    await watch.event(session_id, CommandIssued, name="StartTimer", target="endpoint")
    step(by_us)
    assert await lasts_us(watch.event(session_id, TimerFired, target="endpoint")) < SLACK_US
    live.handler = StubHandler(plays_to_the_end=False)
    node.report(HandlerAttached(session_id=session_id, handler_id="fastrtc_1"))
    node.report(SttFinal(session_id=session_id, text="hello"))
    await watch.phase(session_id, "SPEAKING")
    node.report(BargeIn(session_id=session_id, playback_id="answer-1", source="stt"))
    await watch.phase(session_id, "INTERRUPT")
    step(-by_us)
    assert await lasts_us(watch.phase(session_id, "LISTENING", 2)) < SLACK_US


@pytest.mark.parametrize("by_us", STEPS_US)
async def test_the_log_goes_on_at_the_rate_of_real_time(running: Running, step: Step, by_us: int) -> None:
    """Between two events the log has the time that passed, and what is observed is not in its future."""
    live = await running.listening()
    state = live.state.at_us
    step(by_us)
    began = time.monotonic_ns()
    await asyncio.sleep(0.05)
    running.node.report(SpeechStarted(session_id=live.session_id))
    heard = await running.watch.event(live.session_id, SpeechStarted)
    assert 50_000 <= heard.at_us - state < SLACK_US + (time.monotonic_ns() - began) // 1000
    assert 0 <= heard.at_us - heard.observed_at_us < SLACK_US


@pytest.mark.parametrize("by_us", STEPS_US)
async def test_an_owner_whose_clock_differs_goes_on_where_the_log_is(
    make_node: MakeNode, step: Step, by_us: int
) -> None:
    """Behind or ahead: the log's time has the gap that there was, and the next wait its own length."""
    first = await make_node(policy=Policy(goodbye=Goodbye(after_ms=60_000)))
    live = await first.listening()
    handler = StubHandler(plays_to_the_end=False)
    live.handler = handler
    first.node.report(HandlerAttached(session_id=live.session_id, handler_id=handler.handler_id))
    await soon(lambda: bool(live.state.handler_id))
    before_us, began = live.state.at_us, time.monotonic_ns()
    await first.node.stop()
    step(by_us)
    second = await make_node()
    resumed = await second.watch.event(live.session_id, SessionResumed)
    passed_us = (time.monotonic_ns() - began) // 1000
    assert 0 < resumed.at_us - before_us <= passed_us + 10_000
    assert passed_us - (resumed.at_us - before_us) < SLACK_US
    second.node.report(SpeechStopped(session_id=live.session_id, duration_ms=500))
    await second.watch.event(live.session_id, CommandIssued, name="StartTimer", target="endpoint")
    assert await lasts_us(second.watch.event(live.session_id, TimerFired, target="endpoint")) < SLACK_US
    assert not second.watch.all(live.session_id, TimerFired, target="session_limit")


@pytest.mark.parametrize("by_us", [-HOUR_US, HOUR_US])
async def test_a_new_session_has_the_date_of_the_wall_clock(running: Running, step: Step, by_us: int) -> None:
    """Only sessions that live already keep their time."""
    await running.listening()
    step(by_us)
    live = await running.listening()
    opened = running.watch.all(live.session_id, StateChanged)[0]
    assert abs(opened.at_us - clocks.now_us()) < SLACK_US


def test_the_clock_of_redis_may_be_set_between_two_owners() -> None:
    """Behind: the log goes on from its last event. Ahead: at most by the longest gap. Unknown: as if there was none."""
    real = 5_000_000
    cases = {1_000: 1_000, -HOUR_US: 0, 24 * HOUR_US: LONGEST_GAP_US}
    for gap_us, counted_us in cases.items():
        server = SteadyClock(7 * HOUR_US + gap_us, lambda: real)
        log = after_takeover(HOUR_US, 7 * HOUR_US, server, lambda: real)
        assert log.now_us() == HOUR_US + counted_us
    assert after_takeover(HOUR_US, 0, SteadyClock(HOUR_US, lambda: real), lambda: real).now_us() == HOUR_US


async def test_a_lease_of_a_dead_node_does_not_outlive_a_clock_that_is_set_back(
    make_node: MakeNode, place: Place
) -> None:
    """Expiry is a date in Redis: set back by an hour, a dead owner would keep its calls for an hour."""
    owned = leases.shard(place.keys, 0)
    await leases.acquire(place.redis, [owned], 3_600_000, "", "node-dead")
    running = await make_node(lease_ms=600)
    await soon(lambda: 0 in running.node.shards)


async def test_a_lease_is_kept_when_the_clock_of_redis_is_set_ahead(place: Place) -> None:
    """All leases expire at once, and nobody died. What another has taken, or what simply ran out, is lost as ever."""
    what = [leases.shard(place.keys, number) for number in range(3)]
    first, second, third = await leases.acquire(place.redis, what, 60_000, "here")
    hour_behind = [
        leases.Lease(one.what, one.token, one.cursor, (), SteadyClock(one.server_clock.now_us() - HOUR_US))
        for one in (first, second)
    ]
    await place.redis.delete(*(one.lease for one in what))
    await leases.acquire(place.redis, [what[1]], 60_000, "there")
    held = [*hour_behind, third]
    assert await leases.renew(place.redis, held, 60_000) == [hour_behind[1], third]
    assert await place.redis.get(what[0].lease) == first.token.encode()
    await leases.release(place.redis, [first])
    await place.redis.delete(what[1].lease, *(one.owned for one in what))


@pytest.mark.parametrize("by_ms", [-3_600_000, 3_600_000])
async def test_nodes_live_on_when_the_clock_of_redis_is_set(place: Place, by_ms: int) -> None:
    """Signs of life are dates in Redis: a clock that is set makes nobody dead, and keeps nobody alive."""
    mine, other = (Membership(place.redis, place.keys, 300) for _ in range(2))
    for one in (mine, other):
        await one.sign_of_life({})
    for node, line in (await place.redis.hgetall(place.keys.nodes)).items():
        since, seen, rest = line.decode().split(" ", 2)
        await place.redis.hset(place.keys.nodes, node, f"{int(since) - by_ms} {int(seen) - by_ms} {rest}")
    await mine.sign_of_life({})
    assert {one.node for one in mine.members} == {mine.node, other.node}
    assert all(0 <= one.silent_ms < 300 for one in mine.members)

    async def other_is_gone() -> bool:
        await mine.sign_of_life({})
        return len(mine.members) == 1

    await soon_in_redis(other_is_gone)


def test_a_history_is_no_further_behind_because_a_clock_was_set(step: Step) -> None:
    """How old what is missing is: never older than since when nothing was missing."""

    class Fed:
        shard, reads, is_current = 0, True, True

    feed: Any = Fed()
    for by_us in STEPS_US:
        lag = Lag()
        assert lag.seconds([0], {0: feed}) == 0
        at_us = clocks.now_us()
        feed.is_current = False
        step(by_us)
        lag.behind(0, at_us)
        assert lag.seconds([0], {0: feed}) < SLACK_US / 1e6
        step(-2 * by_us)
        assert lag.seconds([0], {0: feed}) < SLACK_US / 1e6
        step(by_us)
        feed.is_current = True
