"""What can happen to a fleet. Each fault returns when it is over; the world waits until it has recovered."""

import asyncio
import signal
import time

from tests.chaos import watch
from tests.chaos.world import World

LEASE_S = 2.0
"""The service's own."""
CUT_AT_MOST = 64 * 1024


async def kill_a_node(world: World) -> None:
    """kill -9 of one that has calls. Another one is started in its place once somebody has taken over; how long that
    took is noted.
    """
    places = {caller.place for caller in world.callers}
    node = world.chance.choice([one for one in world.fleet.nodes if one.url in places] or world.fleet.nodes)
    left = await watch.left_behind(world.redis, world.keys, node.url)
    began_s = time.monotonic()
    await world.fleet.kill(node)
    world.take_overs_ms += await watch.take_overs(world.redis, world.keys, left, began_s)
    await world.fleet.spawn()


async def pause_a_node(world: World) -> None:
    """SIGSTOP for longer than the lease, then SIGCONT: it wakes and believes that it owns what others have by now."""
    node = world.chance.choice(world.fleet.nodes)
    node.paused = True
    node.signal(signal.SIGSTOP)
    await asyncio.sleep(LEASE_S * world.chance.uniform(1.3, 2))
    node.signal(signal.SIGCONT)
    node.paused = False


async def drain_a_node(world: World) -> None:
    """SIGTERM, as a deploy does it: it hands over what it has, and ends well."""
    node = world.chance.choice(world.fleet.nodes)
    code, _ = await asyncio.gather(world.fleet.drain(node), world.fleet.spawn())
    assert code == 0, f"a node that was drained ended with {code}: {node.log.read_text()[-2_000:]}"


async def cut_connections(world: World) -> None:
    """CLIENT KILL for a third of all connections to Redis, those of producers among them."""
    ours = await world.redis.client_id()
    for client in await world.redis.client_list():
        if int(client["id"]) != ours and world.chance.random() < 1 / 3:
            await world.redis.client_kill_filter(_id=client["id"])


async def kill_redis(world: World) -> None:
    """kill -9 of Redis, and a start on the same directory."""
    await world.server.kill()
    await asyncio.sleep(world.chance.uniform(0.1, 1))
    await world.server.start()
    world.restarted = True


async def kill_redis_and_cut(world: World) -> None:
    """As a power failure: the end of the append-only file is gone too, from a random byte on."""
    await world.server.kill()
    count, lost = await world.server.lose(world.chance, CUT_AT_MOST)
    world.cut.append(count)
    world.lost_versions.append(lost)
    await world.server.start()
    world.restarted = True
