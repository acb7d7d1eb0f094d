"""Simulates many seeds in several processes under all checkers, and prints a table; exits 1 on any violation.

python -m tests.simulation --seeds 0:20000 --jobs 2
"""

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from events.codec import prepare
from orchestrator.simulation.simulate import TURNS
from tests.simulation.checked import checked

BATCH = 50
REPLAY_EVERY = 10
"""Replay one seed in this many: a replay costs as much as the conversation."""
SEEDS_SHOWN = 5


@dataclass(slots=True)
class Summary:
    """Totals of the simulated seeds."""

    sessions: int = 0
    events: int = 0
    violations: dict[str, list[int]] = field(default_factory=dict)
    """Invariant and checker → the seeds that violate it."""
    phases: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Summary") -> None:
        self.sessions += other.sessions
        self.events += other.events
        self.phases += other.phases
        for name, seeds in other.violations.items():
            self.violations.setdefault(name, []).extend(seeds)


def summarize(seeds: Sequence[int], turns: int = TURNS, replay_every: int = REPLAY_EVERY) -> Summary:
    """Simulate these seeds, one after the other."""
    summary = Summary()
    gc.disable()  # garbage is collected only between batches, to save time
    for seed in seeds:
        run = checked(seed, turns=turns, replayed=seed % replay_every == 0)
        summary.sessions += 1
        summary.events += len(run.log)
        summary.phases.update(sorted(run.phases))
        for name in dict.fromkeys(f"{v.invariant:<10} {v.checker}" for v in run.violations):
            summary.violations.setdefault(name, []).append(seed)
    gc.enable()
    gc.collect()
    return summary


def report(summary: Summary, elapsed_s: float, processor_s: float) -> str:
    """The summary as a text table."""
    per_session_ms = 1000 * processor_s / max(1, summary.sessions)
    lines = [
        f"sessions    {summary.sessions}",
        f"events      {summary.events}",
        f"time        {elapsed_s:.1f} s; of processors {processor_s:.1f} s, {per_session_ms:.1f} ms a session",
        f"violations  {sum(map(len, summary.violations.values()))}",
    ]
    for name, seeds in sorted(summary.violations.items()):
        shown = ", ".join(map(str, sorted(seeds)[:SEEDS_SHOWN]))
        lines.append(f"  {name}: {len(seeds)} seeds, the first {shown}")
    lines.append("phases      " + ", ".join(f"{phase} {count}" for phase, count in sorted(summary.phases.items())))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 1 if there is any violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=_range, default=range(1_000), help="first:end, end excluded; or one seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--turns", type=int, default=TURNS, help="utterances per session, at most")
    parser.add_argument("--replay-every", type=int, default=REPLAY_EVERY, help="replay every so many seeds")
    parser.add_argument("--trace", action="store_true", help="print each conversation whole")
    chosen = parser.parse_args(arguments)
    prepare()
    if chosen.trace:
        traces = [checked(seed, turns=chosen.turns) for seed in chosen.seeds]
        sys.stdout.write("\n\n".join(run.trace() for run in traces) + "\n")
        return int(any(run.violations for run in traces))
    started = time.perf_counter()
    total = Summary()
    batches = [
        (chosen.seeds[i : i + BATCH], chosen.turns, chosen.replay_every) for i in range(0, len(chosen.seeds), BATCH)
    ]
    with multiprocessing.Pool(chosen.jobs) as pool:
        for summary in pool.imap_unordered(_summarize, batches):
            total.add(summary)
        pool.close()
        pool.join()
    used = os.times()
    processor_s = used.user + used.system + used.children_user + used.children_system
    sys.stdout.write(report(total, time.perf_counter() - started, processor_s) + "\n")
    return int(bool(total.violations))


def _summarize(batch: tuple[range, int, int]) -> Summary:
    return summarize(*batch)


def _range(text: str) -> range:
    first, colon, end = text.partition(":")
    return range(int(first), int(end)) if colon else range(int(first), int(first) + 1)


if __name__ == "__main__":
    raise SystemExit(main())
