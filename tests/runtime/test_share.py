"""Fair shares: they add up, they differ by one at most, and nobody gives what it would take back."""

import asyncio
from collections import Counter
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from orchestrator.runtime.fleet.fair_share import Member, fair_share, gifts, heirs
from orchestrator.runtime.fleet.membership import Membership
from orchestrator.runtime.redis.keys import Keys

KIND = "shard"


def member(number: int, age_ms: int, owned: int = 0) -> Member:
    return Member(f"node-{number:02d}", age_ms, 0, "", {KIND: owned})


def tables(total: int) -> st.SearchStrategy[list[Member]]:
    """Nodes of any age that own no more than there is."""

    def deal(ages: list[int], cuts: list[int]) -> list[Member]:
        marks = sorted(cut % (total + 1) for cut in cuts[: len(ages)])
        return [
            member(number, age, mark - before)
            for number, (age, mark, before) in enumerate(zip(ages, marks, [0, *marks], strict=False))
        ]

    ages = st.lists(st.integers(0, 5_000), min_size=1, max_size=9)
    return st.builds(deal, ages, st.lists(st.integers(0, 10_000), min_size=9, max_size=9))


@given(tables(64))
def test_shares_add_up_and_differ_by_one_at_most(members: list[Member]) -> None:
    shares = [fair_share(64, members, one.node) for one in members]
    assert sum(shares) == 64
    assert max(shares) - min(shares) <= 1


@given(tables(64))
def test_all_gifts_together_leave_nobody_with_more_than_its_share(members: list[Member]) -> None:
    """Each node decides alone, by the same table, and still they do not get into each other's way."""
    given_away = {one.node: gifts(one.node, KIND, 64, members) for one in members}
    received = Counter(heir.node for to in given_away.values() for heir in to)
    for one in members:
        share, owned = fair_share(64, members, one.node), one.owned[KIND]
        assert not (given_away[one.node] and received[one.node]), "nobody gives and receives"
        if owned <= share:
            assert owned + received[one.node] <= share
        else:
            assert owned - len(given_away[one.node]) >= share


@given(tables(64), st.integers(0, 5_000))
def test_nobody_gives_what_it_would_take_back(members: list[Member], lease_ms: int) -> None:
    """Shares among those that have been there for a lease are never smaller than shares among all."""
    settled = [one for one in members if one.age_ms >= lease_ms]
    for one in settled:
        assert fair_share(64, settled, one.node) >= fair_share(64, members, one.node)


@given(tables(64))
def test_everything_finds_an_heir_and_fair_ones_first(members: list[Member]) -> None:
    """A node that goes deals out what it had: afterwards nobody has more than the fullest had or the share is."""
    free = 64 - sum(one.owned[KIND] for one in members)
    had = Counter({one.node: one.owned[KIND] for one in members})
    got = Counter(heir.node for heir in heirs(free, KIND, 64, members))
    assert got.total() == free
    for one in members:
        assert had[one.node] + got[one.node] <= max(had[one.node], fair_share(64, members, one.node))


def test_a_node_that_comes_takes_the_last_rank() -> None:
    """Nobody's share grows because somebody came."""
    before = [member(2, 900), member(7, 800), member(1, 700)]
    after = [*before, member(0, 10)]
    assert [fair_share(64, before, one.node) for one in before] == [22, 21, 21]
    assert [fair_share(64, after, one.node) for one in after] == [16, 16, 16, 16]
    assert all(fair_share(65, after, one.node) <= fair_share(65, before, one.node) for one in before)


@pytest.mark.parametrize(("silent_ms", "next_look_ms"), [(0, 500), (500, 500), (1_050, 500), (1_300, 250), (1_499, 51)])
def test_who_is_silent_is_looked_after_when_its_leases_expire(silent_ms: int, next_look_ms: int) -> None:
    """Else a dead node's callers would wait for the next look, too."""
    members = Membership(cast("Redis", None), Keys(), lease_ms=1_500)
    members.members = [Member(name, 0, silent, "", {}) for name, silent in (("node-2", 10), ("node-3", silent_ms))]
    assert round(members.next_look_s() * 1_000) == next_look_ms


async def test_a_node_that_was_killed_a_moment_ago_is_no_place_to_go() -> None:
    """Its last sign of life is young, but nobody accepts a connection there; so its clients are held until it has an
    heir, and not sent to and fro.
    """
    members = Membership(cast("Redis", None), Keys(), lease_ms=2_000)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    members.members = [Member("node-2", 5_000, 10, address, {})]
    assert await members.answers(address)
    server.close()
    await server.wait_closed()
    assert not await members.answers(address)
    assert not await members.answers("http://somewhere.else/")


def test_without_members_there_is_no_share_and_no_heir() -> None:
    assert fair_share(64, [], "node-01") == 0
    assert heirs(3, KIND, 64, []) == []
    assert gifts("node-01", KIND, 64, []) == []
