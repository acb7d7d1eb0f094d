"""The long form of the chaos tests.

    uv run python -m tests.chaos [--only nodes …] [--rate 500] [--seed 1] [--sessions 200] [--part 1] [--hostile]

Prints what was done, what was found and what it took, and ends with exit code 1 if anything is wrong. The rate is that
of outside producers; what each question leads to inside comes on top, as often again. A bare round trip to Redis in the
same run says how busy the machine was. `--hostile`: each node has hostile clients, those of the short form.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from cli.terminal import run as run_loop
from tests.chaos import calls, faults
from tests.chaos.checkers import Findings
from tests.chaos.hostile import SHORT_FORM
from tests.chaos.world import Size, World

Plan = dict[Callable[[World], Awaitable[None]], int]
"""Which faults, and how many of each; they come in any order."""

CALLS = 10
"""Of each kind."""
FULL = Size(nodes=3, sessions=200, producers=16, rate_hz=500)
PLANS: dict[str, tuple[Size, Plan]] = {
    "nodes": (
        FULL,
        {faults.kill_a_node: 30, faults.pause_a_node: 10, faults.cut_connections: 20, faults.drain_a_node: 5},
    ),
    "redis-always": (replace(FULL, appendfsync="always"), {faults.kill_redis: 10}),
    "redis-everysec": (FULL, {faults.kill_redis: 10}),
    "lost-tail": (FULL, {faults.kill_redis_and_cut: 10}),
}


async def play(name: str, size: Size, plan: Plan, seed: int) -> bool:
    """Whether everything held."""
    stuck: list[str] = []
    async with World(size, seed) as world:
        await asyncio.sleep(2)
        order = [fault for fault, count in plan.items() for _ in range(count)]
        world.chance.shuffle(order)
        for number, fault in enumerate(order, 1):
            print(f"{name}: {number} of {len(order)}, {fault.__name__}      ", end="\r", file=sys.stderr, flush=True)
            try:
                await world.hurt(fault)
            except AssertionError as error:
                stuck.append(f"{fault.__name__}: {error}")
                break
        for words in stuck:
            print(f"\n{words}\nlogs of the nodes are kept in {world.keep()}", file=sys.stderr, flush=True)
        await asyncio.sleep(2)
        found = await world.findings(may_lose=faults.kill_redis_and_cut in plan)
    found.violations += stuck
    tell(name, world, found)
    return not found.violations


def tell(name: str, world: World, found: Findings) -> None:
    size, counts, seconds = world.size, found.counts, world.loaded_s
    print(
        f"\n{name}: {size.nodes} nodes, {counts['sessions']} sessions, {seconds:.0f} s, seed {world.seed}, "
        f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    print("  " + ", ".join(f"{count} × {fault}" for fault, count in world.done.items()))
    rates = (f"{counts[what] / seconds:.0f}/s {what}" for what in ("acknowledged", "inputs", "events"))
    print(f"  load (offered {size.rate_hz:.0f}/s): {', '.join(rates)}")
    print("  " + ", ".join(f"{what}: {count}" for what, count in sorted(counts.items())))
    for words, values in (
        ("bare round trip to Redis", world.round_trips_ms),
        ("take-over after kill -9", world.take_overs_ms),
        ("Redis ready → all handled", world.returns_ms),
        ("client lost → back", [away for caller in world.callers for away in caller.away_ms]),
        ("producer → owner", found.delays_ms),
    ):
        if values:
            print(f"  {words}: {figures(values)}")
    print(f"  lost: {len(found.lost)}; violations: {len(found.violations)}")
    for violation in sorted(found.violations, key=len)[:20]:
        print(f"    {violation}")


def figures(values: list[float]) -> str:
    ordered = sorted(values)
    p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.99))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {ordered[-1]:.1f} ms ({len(ordered)})"


async def call(part: float) -> bool:
    """Real calls whose process is killed or drained: until the agent is heard again, and its longest silence."""
    print("\ncalls: two services, one caller over WebRTC; from the moment its process went away")
    for name, go in calls.GOINGS.items():
        silences = [await calls.silence(go) for _ in range(max(1, round(CALLS * part)))]
        print(f"  {name}: the agent was heard again {figures([1_000 * one for one in silences])}")
    return True


async def main(only: list[str], seed: int, size: dict[str, Any], part: float) -> int:
    held = True
    for name in only or [*PLANS, "calls"]:
        if name == "calls":
            held &= await call(part)
            continue
        full, plan = PLANS[name]
        some = {fault: max(1, round(count * part)) for fault, count in plan.items()}
        held &= await play(name, replace(full, **size), some, seed)
    return 0 if held else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--only", nargs="*", choices=[*PLANS, "calls"], default=[])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=FULL.rate_hz, help="events of outside producers per second")
    parser.add_argument("--sessions", type=int, default=FULL.sessions)
    parser.add_argument("--part", type=float, default=1.0, help="so much of each count of faults")
    parser.add_argument("--hostile", action="store_true", help="hostile clients at each node")
    given = parser.parse_args()
    hostile = SHORT_FORM if given.hostile else ()
    sizes = {"rate_hz": given.rate, "sessions": given.sessions, "hostile": hostile}
    sys.exit(run_loop(main(given.only, given.seed, sizes, given.part)))
