"""Measures what authentication adds to a turn: processor time of the service, and p50 from words sent to the reply.

Two services run side by side, one with ORCH_AUTH=none, one whose caller has a token that limits all that a grant can
limit. Blocks of typed turns alternate between them; a block with authentication and the one beside it give one ratio.
Prints the medians of the ratios with their 95 % intervals. The bounds are 1.02 for processor time and 1.05 for p50; on
a busy machine the intervals are wide. bench/handshake.py measures the checking of a token.
Run: `uv run python -m bench.authentication [ROUNDS]` (at most 60: a conversation has 50,000 events)
"""

import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.compare import interval
from orchestrator.gateway.access.development import AUDIENCE, ISSUER, existing_key
from orchestrator.gateway.access.tokens import sign
from tests.calls.service import Caller, Service
from tests.cli.service import QUIET

TURNS = 30
"""Turns of a block; about two seconds."""
PAUSE_S = 0.04
"""Between two turns: a client may send 30 frames a second."""
BOUNDS = {"processor time": 1.02, "p50": 1.05}
GRANT = {"may": ["text", "voice"], "sessions": 3, "seconds": 3_600, "turns_per_minute": 10_000}


class Limited(Service):
    """Its callers have a token with all limits."""

    def token(self, *_: str) -> str:
        if self.environment["ORCH_AUTH"] == "none":
            return ""
        key = existing_key(Path(self.environment["ORCH_DATA_DIR"]))
        return sign(key, issuer=ISSUER, audience=AUDIENCE, subject="anna", grant=GRANT)


@dataclass
class Block:
    """Per turn, in milliseconds."""

    processor_ms: float
    p50_ms: float


def processor_ns(process: int) -> int:
    """Processor time of all threads of a process that run now."""
    files = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files)


async def block(service: Service, caller: Caller) -> Block:
    took_s, before_ns = [], processor_ns(service.process.pid)
    for _ in range(TURNS):
        caller.messages.clear()
        began_s = time.perf_counter()
        await caller.send(type="text", text="hello")
        await caller.hears("reply")
        took_s.append(time.perf_counter() - began_s)
        await caller.hears("phase", phase="LISTENING")
        await asyncio.sleep(PAUSE_S)
    used_ns = processor_ns(service.process.pid) - before_ns
    return Block(used_ns / 1e6 / TURNS, median(took_s) * 1000)


async def main(rounds: int) -> bool:
    settings: dict[str, Any] = QUIET | {"ORCH_INPUTS_PER_MINUTE": "100000"}
    ratios: dict[str, list[float]] = {name: [] for name in BOUNDS}
    blocks: list[list[Block]] = []
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Limited(Path(folder, "none"), **settings, ORCH_AUTH="none") as free,
            Limited(Path(folder, "keys"), **settings, ORCH_AUTH="keys") as checked,
            Caller(free, voice=False) as anybody,
            Caller(checked, voice=False) as anna,
        ):
            pairs = [(free, anybody), (checked, anna)]
            for number in range(rounds + 1):
                order = pairs if number % 2 else pairs[::-1]
                found = {service: await block(service, caller) for service, caller in order}
                if number:  # the first round warms up
                    blocks.append([found[free], found[checked]])
                    ratios["processor time"].append(found[checked].processor_ms / found[free].processor_ms)
                    ratios["p50"].append(found[checked].p50_ms / found[free].p50_ms)
    for name, index in (("without", 0), ("with", 1)):
        of = [pair[index] for pair in blocks]
        processor_ms, p50_ms = median(one.processor_ms for one in of), median(one.p50_ms for one in of)
        print(f"{name:8} processor {processor_ms:6.2f} ms a turn, p50 {p50_ms:6.2f} ms")
    for name, values in ratios.items():
        middle, low, high = interval(values)
        print(f"{name}: with / without {middle:.3f}  (95 %: {low:.3f} to {high:.3f}), bound {BOUNDS[name]}")
    return all(interval(values)[1] <= BOUNDS[name] for name, values in ratios.items())


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)) else 1)
