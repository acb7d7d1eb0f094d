"""The short form: a small fleet under load is hurt in every way there is. The long form: `-m tests.chaos`."""

import pytest

from tests.chaos import faults
from tests.chaos.checkers import Findings
from tests.chaos.hostile import SHORT_FORM
from tests.chaos.world import Size, World

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.parametrize("hostile", [(), SHORT_FORM], ids=["alone", "beside hostile clients"]),
]


def held(found: Findings, world: World) -> None:
    """Nothing is wrong, and the checkers had something to look at."""
    assert found.violations == []
    assert found.counts["acknowledged"] > 100
    assert found.counts["answers"] > 10
    assert found.counts["take-overs"] > 0
    assert found.counts["shown"] > 0
    if world.size.hostile:
        assert found.counts["sessions"] > 2 * world.size.sessions, "the hostile clients had conversations"


async def test_nodes_that_die_stand_still_or_leave_lose_nothing_and_do_nothing_twice(hostile: tuple[str, ...]) -> None:
    """kill -9, SIGSTOP beyond the lease, connections cut, SIGTERM."""
    async with World(Size(nodes=2, sessions=16, producers=4, rate_hz=80, hostile=hostile), seed=1) as world:
        await world.hurt(faults.kill_a_node)
        await world.hurt(faults.pause_a_node)
        await world.hurt(faults.cut_connections, 2)
        await world.hurt(faults.drain_a_node)
        held(await world.findings(), world)
    assert world.take_overs_ms


async def test_a_redis_that_is_killed_has_everything_that_it_acknowledged(hostile: tuple[str, ...]) -> None:
    """With `appendfsync always`; nodes and producers find it again by themselves."""
    size = Size(nodes=1, sessions=10, producers=4, rate_hz=80, appendfsync="always", hostile=hostile)
    async with World(size, seed=2) as world:
        await world.hurt(faults.kill_redis, 3)
        found = await world.findings()
    held(found, world)
    assert found.lost == []


async def test_a_redis_that_has_lost_its_last_writes_never_leads_to_a_wrong_answer(hostile: tuple[str, ...]) -> None:
    """The end of its file is cut off at random places. What is left obeys every law, and the nodes say what is not."""
    async with World(Size(nodes=1, sessions=10, producers=4, rate_hz=80, hostile=hostile), seed=3) as world:
        await world.hurt(faults.kill_redis_and_cut, 3)
        found = await world.findings(may_lose=True)
    held(found, world)
    assert found.counts["versions lost"] > 0
    assert found.counts["versions missed"] > 0
