"""Which of several processes accepts: the one with the least to do, of those that live."""

import os
import time
from collections.abc import Iterator

import pytest

from orchestrator.siblings.loads import STALE_S, Loads, make_loads
from orchestrator.siblings.siblings import ServiceProbes, load_of


@pytest.fixture
def loads() -> Iterator[list[Loads]]:
    file = make_loads(3)
    yield [Loads(file, number) for number in (1, 2, 3)]
    os.close(file)


def least(loads: list[Loads]) -> list[bool]:
    return [one.is_least() for one in loads]


def test_those_with_the_fewest_accept(loads: list[Loads]) -> None:
    for one, load in zip(loads, (2, 1, 1), strict=True):
        one.tell(load)
    assert least(loads) == [False, True, True]
    loads[1].tell(3)
    assert least(loads) == [False, False, True]


def test_nobody_waits_for_one_that_has_not_begun_hangs_or_has_left(
    loads: list[Loads], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads[0].tell(5)
    assert loads[0].is_least()
    loads[1].tell(1)
    assert not loads[0].is_least()
    loads[1].leave()
    assert loads[0].is_least()
    assert loads[1].silent_s() == 0
    loads[2].tell(1)
    assert not loads[0].is_least()
    later_s = time.monotonic() + STALE_S + 0.01
    monkeypatch.setattr("time.monotonic", lambda: later_s)
    assert loads[0].is_least()
    assert loads[2].silent_s() > STALE_S


async def no_page(_: str) -> tuple[bytes, str]:
    raise NotImplementedError


def test_late_full_and_unready_ones_come_after_all_others() -> None:
    def load(connections: int, *, has_room: bool = True, is_ready: bool = True, late_s: float = 0) -> int:
        probes = ServiceProbes(
            lambda: connections, lambda: has_room, lambda: is_ready, dict, lambda _: None, no_page, late_s
        )
        return load_of(probes)

    in_order = [load(0), load(900), load(0, late_s=0.1), load(0, has_room=False), load(0, is_ready=False)]
    assert in_order == sorted(in_order)
    assert len(set(in_order)) == len(in_order)
