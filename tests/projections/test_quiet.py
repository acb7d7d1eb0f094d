"""What waits for a quiet moment gets one, or goes on."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from projections import quiet
from projections.quiet import LOOK_S, MOST_S, QUIET_S, Quiet


class Clock:
    """Time passes in sleeps alone; `meanwhile` is what happens in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.meanwhile: Callable[[], None] = lambda: None
        monkeypatch.setattr(quiet, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(quiet, "asyncio", SimpleNamespace(sleep=self.sleep))

    async def sleep(self, delay_s: float) -> None:
        self.now_s += delay_s
        if delay_s:
            self.meanwhile()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_where_nothing_happens_nobody_waits(clock: Clock) -> None:
    await Quiet().moment()
    assert clock.now_s == 100


async def test_the_end_of_a_turn_is_waited_for(clock: Clock) -> None:
    """As long as events follow each other, and a little longer."""
    one, events = Quiet(), [None] * 3
    one.note()
    clock.meanwhile = lambda: one.note() if events and not events.pop() else None
    await one.moment()
    assert not events
    assert 3 * LOOK_S + QUIET_S <= clock.now_s - 100 < MOST_S


async def test_in_a_rush_it_goes_on(clock: Clock) -> None:
    """Somebody is always in a turn."""
    one = Quiet()
    one.note()
    clock.meanwhile = one.note
    await one.moment()
    assert MOST_S <= clock.now_s - 100 < MOST_S + 2 * LOOK_S
