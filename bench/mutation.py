"""Mutation testing of the pure core: do the tests fail when a line of orchestrator/session is wrong?

    uv run --with mutmut==3.8.1 python -m bench.mutation [--workers N] [--only speaking --only thinking] [--again]

bench/mutants.py generates the mutants; bench/mutant_trial.py tries them in a copy of the files that git would commit. A
full run takes an hour on one core. It can be split with --only: results are cached in build/mutation/ until the file
changes, and docs/mutation.md is written from all of them, with the score per file and each survivor with its reason
from bench/mutation_reasons.toml. `--again` tries only survivors without a reason, for example after new tests. Exit
status 1: less than 90 % killed, a file not tried, or a survivor without a reason.
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
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from bench.mutant_trial import Trial
from bench.mutants import mutants

ROOT = Path(__file__).parents[1]
CORE = Path("orchestrator/session")
KEPT = ROOT / "build" / "mutation"
REPORT = ROOT / "docs" / "mutation.md"
REASONS = Path(__file__).with_name("mutation_reasons.toml")
GOAL = 90


def copy_tree(to: Path) -> None:
    """Copy the files that git would commit."""
    list_files = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(list_files, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)


@dataclass(frozen=True)
class Tried:
    """Result for one file: the number of mutants, and line and change of each survivor."""

    file: Path
    mutants: int
    alive: list[tuple[int, str]]


def kept(file: Path) -> Path:
    """Cache file of a file's result; its name changes with the file's content."""
    return KEPT / f"{file.stem}-{sha256(file.read_bytes()).hexdigest()[:16]}.json"


def keep(tried: Tried) -> None:
    kept(tried.file).write_text(json.dumps([tried.mutants, tried.alive], indent=1, ensure_ascii=False), "utf-8")


def last_time(file: Path) -> Tried:
    mutants, alive = json.loads(kept(file).read_text("utf-8"))
    return Tried(file, mutants, [(line, change) for line, change in alive])


def report(tried: list[Tried], reasons: dict[str, str]) -> tuple[str, float]:
    """The report, and the score in percent."""
    lines = ["# Mutation testing of orchestrator/session", ""]
    lines += [f"Written by `bench/mutation.py` (see there for the method), for the core at commit {last_change()}."]
    lines += ["Line numbers are those of that commit.", ""]
    lines += ["| File | Mutants | Survivors | Killed |", "|---|--:|--:|--:|"]
    alive = [(reasons.get(change, ""), t.file.name, line, change) for t in tried for line, change in t.alive]
    rows = [(t.file.name, t.mutants, len(t.alive)) for t in tried if t.mutants]
    rows += [("**all**", sum(t.mutants for t in tried), len(alive))]
    lines += [f"| {name} | {made} | {left} | {killed_percent(made, left):.1f} % |" for name, made, left in rows]
    for why, group in groupby(sorted(alive), key=itemgetter(0)):
        lines += ["", f"## {why or 'No reason given'}", "", "```diff"]
        for _, name, line, change in group:
            was, now = change.partition(": ")[2].split(" → ", 1)
            lines += [f"  {name}:{line}", f"- {was}", f"+ {now}"]
        lines += ["```"]
    return "\n".join(lines) + "\n", killed_percent(*rows[-1][1:])


def last_change() -> str:
    """Hash of the last commit that changed the core."""
    command = ["git", "log", "-1", "--format=%h", "--abbrev=7", "--", str(CORE)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.strip()


def killed_percent(made: int, left: int) -> float:
    return 100 * (1 - left / max(1, made))


def attempt(trial: Trial, file: Path) -> Tried:
    """Try all mutants of a file."""
    made = [*mutants(file)]
    return Tried(file, len(made), sorted((mutant.line, mutant.change) for mutant in trial.survivors(made)))


def attempt_again(trial: Trial, file: Path, reasons: Collection[str]) -> Tried:
    """Try the previous survivors that have no reason."""
    before = last_time(file)
    alive = [(line, change) for line, change in before.alive if change in reasons]
    if len(alive) < len(before.alive):
        todo = {*before.alive} - {*alive}
        found = trial.survivors([mutant for mutant in mutants(file) if (mutant.line, mutant.change) in todo])
        alive += [(mutant.line, mutant.change) for mutant in found]
    return Tried(file, before.mutants, sorted(alive))


def try_all(files: list[Path], args: argparse.Namespace, reasons: Collection[str]) -> None:
    """Try the mutants of these files in a copy of the tree, and cache the results."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutation-", ignore_cleanup_errors=True) as scratch:
        copy_tree(Path(scratch))
        os.chdir(scratch)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        sys.path[:] = [scratch, *(path for path in sys.path if Path(path).resolve() != ROOT)]
        trial = Trial(args.workers)
        for file in files:
            began = time.monotonic()
            tried = attempt_again(trial, file, reasons) if args.again else attempt(trial, file)
            keep(tried)
            print(f"{file.name}: {len(tried.alive)} survive, {time.monotonic() - began:.0f} s", flush=True)
        os.chdir(ROOT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", action="append", metavar="MODULE", help="a module of the core; may be repeated")
    parser.add_argument("--again", action="store_true", help="try the survivors without a reason only")
    args = parser.parse_args()
    os.chdir(ROOT)
    files = sorted(CORE.rglob("*.py"))
    chosen = [file for only in args.only for file in files if file.stem == only] if args.only else files
    groups = tomllib.loads(REASONS.read_text("utf-8")).get("reason", [])
    reasons = {change: group["why"] for group in groups for change in group["mutants"]}
    try_all(chosen, args, reasons)
    tried = [last_time(file) for file in files if kept(file).exists()]
    text, score = report(tried, reasons)
    REPORT.write_text(text, "utf-8")
    print(text.partition("\n\n## ")[0])
    missing = [file.name for file in files if not kept(file).exists()]
    alive = {change for t in tried for _, change in t.alive}
    unexplained = alive - {*reasons}
    for change in sorted({*reasons} - alive) if not missing else ():
        print(f"unused reason, the mutant does not survive: {change}")
    print(f"{len(unexplained)} survivors without a reason; files not tried: {', '.join(missing) or 'none'}")
    sys.exit(score < GOAL or bool(unexplained) or bool(missing))


if __name__ == "__main__":
    main()
