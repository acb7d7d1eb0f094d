"""Compares the speed of two checkouts: prints the ratio this / other, with its 95 % confidence interval.

Each round runs both, in alternating order, and gives one ratio. Prints the median of the ratios and its bootstrap
interval. `replay`: processor time of `orch replay` over simulated conversations that both decide alike. `turn`:
p50 and p95 of a turn with stub services (bench/turn_latency.py). Each checkout needs its own environment (run
`uv run orch --help` in it once):

    uv run python -m bench.compare OTHER_CHECKOUT [replay|turn] [ROUNDS]
"""

import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[1]
EVENTS = 60_000
TURNS = 150
SAMPLES = 2_000

Figures = dict[str, float]


def run(checkout: Path, *arguments: str, statuses: tuple[int, ...] = (0,)) -> str:
    """Run the checkout's own Python, with the checkout as working directory. Returns stdout. Raises SystemExit."""
    python = checkout / ".venv" / "bin" / "python"
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run([python, *arguments], cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode not in statuses:
        raise SystemExit(f"{checkout}: {' '.join(arguments[:3])} exits with {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def drop_differences(file: Path) -> None:
    """Drop the conversations that this checkout decides otherwise: a report of each would be measured, too."""
    (found,) = json.loads(run(HERE, "-m", "cli", "replay", "--json", str(file), statuses=(0, 1)))["recordings"]
    differing = {divergence["session"] for divergence in found["divergences"]}
    header, *lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(header + b"".join(line for line in lines if json.loads(line)["session_id"] not in differing))
    print(f"{found['sessions']} conversations, without {len(differing)} that this checkout decides otherwise")


def replay(file: Path) -> Callable[[Path], Figures]:
    """Measures processor seconds of one quiet replay, including process start."""

    def measure(checkout: Path) -> Figures:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(checkout, "-m", "cli", "replay", "--quiet", "--jobs", "1", str(file))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {"replay": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}

    return measure


def turn(checkout: Path) -> Figures:
    """Milliseconds from STT_FINAL to the first audio."""
    (line,) = re.findall(r"first audio.*", run(checkout, "bench/turn_latency.py", str(TURNS)))
    p50, p95 = re.findall(r"p\d\d +([\d.]+)", line)
    return {"turn p50": float(p50), "turn p95": float(p95)}


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Median of the ratios, with the bounds of its 95 % bootstrap interval."""
    dice = random.Random(0)
    medians = sorted(median(dice.choices(ratios, k=len(ratios))) for _ in range(SAMPLES))
    return median(ratios), medians[int(SAMPLES * 0.025)], medians[int(SAMPLES * 0.975)]


def main(other: Path, what: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure: Callable[[Path], Figures] = turn
        if what == "replay":
            file = Path(folder) / "recording.jsonl"
            # The other checkout writes the recording: both can read the older format.
            script = (HERE / "bench" / "replay_recording.py").read_text("utf-8")
            run(other, "-c", script, str(file), str(EVENTS))
            drop_differences(file)
            measure = replay(file)
        ratios: dict[str, list[float]] = {}
        for number in range(rounds):
            order = (HERE, other) if number % 2 else (other, HERE)
            found = {checkout: measure(checkout) for checkout in order}
            for name, figure in found[HERE].items():
                ratios.setdefault(name, []).append(figure / found[other][name])
            print(f"{number + 1}/{rounds} " + "  ".join(f"{n} {r[-1]:.3f}" for n, r in ratios.items()), flush=True)
    for name, found_ratios in ratios.items():
        middle, low, high = interval(found_ratios)
        print(f"{name}: this / other {middle:.3f} (in 95 of 100 between {low:.3f} and {high:.3f}, {rounds} rounds)")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), (sys.argv[2:] or ["replay"])[0], int((sys.argv[3:] or ["15"])[0]))
