"""Mutation testing of the pure core: do the tests notice when a line of orchestrator/session is wrong?

    uv run --with mutmut==3.8.1 python -m bench.mutation [--workers N] [--only speaking --only thinking]

mutmut goes first, within functions: per mutant it runs the tests that call the function ([tool.mutmut] has how). What
it left alive, and what runs at import, is for bench/mutants.py. All of it happens in a copy of the tree as git would
commit it, so nothing is left here but the report: build/mutation.md has the score per file, and each survivor with its
reason from bench/mutation_reasons.toml. Exit status 1: less than 90 % is killed, or a survivor has no reason.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

from bench.mutants import Mutant, mutants, survivors

ROOT = Path(__file__).parents[1]
CORE = Path("orchestrator/session")
REPORT = ROOT / "build" / "mutation.md"
REASONS = Path(__file__).with_name("mutation_reasons.toml")
MUTMUT = [sys.executable, "-c", "from mutmut.__main__ import cli; cli()", "run", "--max-children"]
KILLED = {1, 3, 24, 36, 152, 255, -24}
"""mutmut's exit codes for tests that failed or never ended."""
GOAL = 90


def copy_tree(to: Path) -> None:
    """What git would commit."""
    list_files = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(list_files, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)


def run_mutmut(files: list[Path], workers: int) -> dict[Path, dict[str, bool]]:
    """Whether it killed a mutant, by file and mutmut's name for the mutant."""
    chosen = [".".join(file.with_suffix("").parts) + ".*" for file in files if file.stem != "__init__"]
    with Path("mutmut.log").open("w") as log:
        status = subprocess.run([*MUTMUT, str(workers), *chosen], stdout=log, stderr=log, check=False).returncode
    if status:
        raise SystemExit("mutmut failed:\n" + Path("mutmut.log").read_text("utf-8").replace("\r", "\n")[-4_000:])
    metas = {file: json.loads(Path(f"mutants/{file}.meta").read_text("utf-8")) for file in files}
    return {file: {n: code in KILLED for n, code in meta["exit_code_by_key"].items()} for file, meta in metas.items()}


def report(total: Counter[str], alive: list[Mutant], reasons: dict[str, str]) -> tuple[str, float]:
    """The report, and the score in percent."""
    left = Counter(mutant.file.name for mutant in alive)
    overall = 100 * (1 - left.total() / total.total())
    lines = ["# Mutation testing of orchestrator/session", ""]
    lines += ["| File | Mutants | Survivors | Killed |", "|---|--:|--:|--:|"]
    lines += [f"| {name} | {n} | {left[name]} | {100 * (1 - left[name] / n):.1f} % |" for name, n in total.items()]
    lines += [f"| **all** | {total.total()} | {left.total()} | **{overall:.1f} %** |"]
    for why in ("", *sorted({reasons[mutant.change] for mutant in alive if mutant.change in reasons})):
        found = [mutant for mutant in alive if reasons.get(mutant.change, "") == why]
        lines += ["", f"## {why or 'No reason given'}", "", *([] if found else ["none"])]
        for mutant in sorted(found, key=lambda mutant: (mutant.file, mutant.line, mutant.change)):
            was, now = mutant.change.partition(": ")[2].split(" → ", 1)
            lines += [f"- {mutant.file}:{mutant.line}", "  ```diff", f"  - {was}", f"  + {now}", "  ```"]
    return "\n".join(lines) + "\n", overall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", action="append", metavar="MODULE", help="a module of the core; may be repeated")
    args, began = parser.parse_args(), time.monotonic()
    groups = tomllib.loads(REASONS.read_text("utf-8")).get("reason", [])
    reasons = {change: group["why"] for group in groups for change in group["mutants"]}
    with tempfile.TemporaryDirectory(prefix="mutation-", ignore_cleanup_errors=True) as scratch:
        copy_tree(Path(scratch))
        os.chdir(scratch)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        sys.path[:] = [scratch, *(path for path in sys.path if Path(path).resolve() != ROOT)]
        files = [file for file in sorted(CORE.rglob("*.py")) if not args.only or file.stem in args.only]
        killed = run_mutmut(files, args.workers)
        todo = [m for file in files for m in mutants(file, {name for name, dead in killed[file].items() if not dead})]
        total = Counter({file.name: sum(killed[file].values()) for file in files}) + Counter(m.file.name for m in todo)
        took_min = (time.monotonic() - began) / 60
        print(f"{total.total()} mutants, {len(todo)} left after mutmut's {took_min:.0f} min", flush=True)
        alive = survivors(todo, args.workers)
        os.chdir(ROOT)
    text, score = report(total, alive, reasons)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(text, "utf-8")
    unexplained = [mutant for mutant in alive if mutant.change not in reasons]
    print(text.partition("\n\n## ")[0])
    for change in sorted({*reasons} - {mutant.change for mutant in alive}) if not args.only else ():
        print(f"a reason for what does not survive: {change}")
    print(f"{len(unexplained)} survivors without a reason: {REPORT}, after {(time.monotonic() - began) / 60:.0f} min")
    sys.exit(score < GOAL or bool(unexplained))


if __name__ == "__main__":
    main()
