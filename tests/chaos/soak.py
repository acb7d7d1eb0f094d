"""The soak: `uv run python -m tests.chaos.soak [--minutes 60] [--sessions 100] [--rate 100]`

A node under an even load and no faults. Prints once a minute what it and its Redis hold in memory: of Redis without the
logs, which are the record and grow with what is said. Ends with exit code 1 if anything that was sent is not in order.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

from redis.asyncio import Redis

from cli.terminal import run as run_loop
from orchestrator.runtime.redis.keys import Keys
from tests.chaos.world import Size, World

MB = 1 << 20


async def logs_bytes(redis: Redis, keys: Keys) -> int:
    """What the session logs take, by a sample of 20 entries each."""
    found = 0
    async for key in redis.scan_iter(match=f"{keys.prefix}:*:session:*:log", count=1_000):
        found += await redis.memory_usage(key, samples=20) or 0
    return found


def resident(pid: int) -> int:
    """The memory of a process, in bytes."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


async def soak(size: Size, minutes: float) -> bool:
    """Whether everything held."""
    print(" minute     node MB    redis MB  of it logs    the rest   events")
    async with World(size, seed=1) as world:
        began_s = time.monotonic()
        (node,) = world.fleet.nodes
        while (passed_s := time.monotonic() - began_s) < 60 * minutes:
            used = (await world.redis.info("memory"))["used_memory"]
            logs = await logs_bytes(world.redis, world.keys)
            sent = sum(len(producer.acknowledged) for producer in world.producers)
            figures = [resident(node.process.pid), used, logs, used - logs]
            held = "".join(f"{value / MB:12.1f}" for value in figures)
            print(f"{passed_s / 60:7.1f}{held}{sent:9}", flush=True)
            await asyncio.sleep(min(60, 60 * minutes / 4))
        found = await world.findings()
    print("\n".join(found.violations) or f"everything held: {dict(found.counts)}")
    return not found.violations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--rate", type=float, default=100, help="events a second, of all producers together")
    args = parser.parse_args()
    size = Size(nodes=1, sessions=args.sessions, producers=8, rate_hz=args.rate)
    sys.exit(not run_loop(soak(size, args.minutes)))


if __name__ == "__main__":
    main()
