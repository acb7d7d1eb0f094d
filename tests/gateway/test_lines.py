"""Whose line is freed for whom, where more callers come than there are lines: the real LinePool, on a test clock."""

from collections import Counter
from typing import Any, cast

import pytest

from orchestrator.gateway import lines as module
from orchestrator.gateway.lines import AWAY, FRESH_S, SILENT_IN_A_CROWD_S, LinePool
from orchestrator.runtime.live_session import LiveSession

LINES = 20


class Live:
    """A session that was promised, with a connected caller."""

    def __init__(self, name: str) -> None:
        self.session_id = name
        self.client: Any = self
        self.handler = None
        self.open: Any = lambda: None

    async def close(self, _: str) -> None:
        pass


class World:
    """A node of LINES lines, and callers who say nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now_s)
        self.sessions: list[Live] = []
        self.counters: Counter[str] = Counter()
        self.greets = False
        self.ended: list[str] = []
        self.lines = LinePool(cast("Any", self), LINES)

    def comes(self, address: str, name: str = "") -> bool:
        """Somebody comes and says nothing; whether they get a line."""
        if not self.lines.has_room(address):
            return False
        live = Live(name or address)
        self.sessions.append(live)
        self.lines.joined(cast("LiveSession", live), address)
        self.lines.silent(cast("LiveSession", live), cast("Any", live), address)
        return True

    def discard(self, live: Live) -> None:
        self.sessions.remove(live)
        self.ended.append(live.session_id)

    async def withdraw(self, live: Live) -> None:
        pass

    def report(self, event: Any) -> None:
        self.ended.append(event.session_id)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_an_address_that_floods_ends_its_own_callers(world: World) -> None:
    """Twenty conversations a second: they are never old, and the five who think before they speak keep their lines."""
    for number in range(5):
        assert world.comes(f"good {number}")
    for _ in range(100):
        world.comes("evil")
        world.now_s += 0.05
    assert set(world.ended) == {"evil"}
    assert world.comes("newcomer"), "and so does whoever comes then"
    assert set(world.ended) == {"evil"}


async def test_a_fresh_caller_of_an_address_with_few_is_not_ended(world: World) -> None:
    """They have had no time to speak."""
    for number in range(LINES):
        assert world.comes(f"address {number % 10}")
    assert not world.comes("newcomer")
    world.now_s += FRESH_S
    assert world.comes("newcomer")


async def test_many_of_one_address_have_their_time_while_there_are_lines(world: World) -> None:
    """An office behind one address, say: nobody else needs their lines, so they may think for some seconds."""
    assert world.comes("one who thinks for long")
    world.now_s += 0.2
    for _ in range(LINES - 1):
        assert world.comes("office")
    world.now_s += SILENT_IN_A_CROWD_S - 0.3
    world.lines._end_the_silent()
    assert not world.ended
    world.now_s += 0.2
    world.lines._end_the_silent()
    assert world.ended == ["one who thinks for long"]
    world.now_s += 0.2
    world.lines._end_the_silent()
    assert len(world.ended) == LINES // 2


async def test_many_who_come_at_once_from_one_address_do_not_end_each_other(world: World) -> None:
    """All lines are taken by them, and none has had time to speak: the next one is asked to come again."""
    for _ in range(LINES):
        assert world.comes("office")
    assert not world.comes("office")
    assert not world.comes("newcomer")
    assert not world.ended


async def test_a_caller_whose_call_has_begun_keeps_the_line(world: World) -> None:
    """The oldest of all, and nobody has looked since: the line of a caller who is still silent is freed."""
    assert world.comes("crowd", "in a call")
    for number in range(LINES - 1):
        assert world.comes("crowd", f"silent {number}")
    world.sessions[0].open = None
    world.now_s += FRESH_S
    assert world.comes("newcomer")
    assert world.ended == ["silent 0"]


async def test_no_caller_is_ended_where_all_calls_have_begun(world: World) -> None:
    """A newcomer is asked to come again."""
    for _ in range(LINES):
        assert world.comes("crowd")
    for live in world.sessions:
        live.open = None
    world.now_s += SILENT_IN_A_CROWD_S
    assert not world.comes("newcomer")
    world.lines._end_the_silent()
    assert not world.ended


async def test_of_the_absent_those_of_the_address_with_most_are_ended(world: World) -> None:
    """Who loses their connection keeps the conversation, however many others come, speak and go."""
    for number in range(AWAY * LINES + 10):
        live = Live(f"evil {number}" if number else "good")
        live.client, live.open = None, None
        world.sessions.append(live)
        world.lines.joined(cast("LiveSession", live), live.session_id.partition(" ")[0])
        world.lines.left(cast("LiveSession", live))
        world.now_s += 0.05
    world.lines._end_the_absent()
    assert world.ended == [f"evil {number}" for number in range(1, 11)]
