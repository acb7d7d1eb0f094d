"""Measures the rate of `orch replay`, and of the eventsourcing library rebuilding similar aggregates in the same run.

`orch replay` starts a process, reads and decodes a file, decides everything again, and compares every event, command
and state hash. The library reads from memory, is warm, and only folds: events of the same content into phase, turn,
time and outstanding commands. Needs the library (BSD-3-Clause), which is no dependency of orch:

    uv run --with eventsourcing python bench/replay.py [EVENTS]
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate

from events.codec import decode, encode
from events.envelope import Input
from events.recording import Header
from orchestrator import simulate
from orchestrator.replay.replay import Replayer
from orchestrator.session import REDUCER_VERSION

SEEDS = 200
ROUNDS = 5
THEIRS = 50_000
PARTS = 4
ENVELOPE = {
    *("at_us", "cause", "epoch", "event_id", "incarnation", "schema_version", "session_id", "state_hash", "turn"),
    *("type", "version"),
}
TERMINAL = {"INTENT_RESOLVED", "RAG_ANSWERED", "SERVICE_FAILED", "PLAYBACK_DONE", "TIMER_FIRED"}


class SessionAggregate(Aggregate):
    """A session as an aggregate of the eventsourcing library."""

    class Opened(Aggregate.Created):
        said: dict[str, Any]

        def mutate(self, aggregate: Any) -> Any:
            made = super().mutate(aggregate)
            made.phase, made.turn, made.epoch, made.at_us, made.pending = "NEW", 0, 0, 0, {}
            return made

    class Said(Aggregate.Event):
        type: str
        at_us: int
        cause: str
        epoch: int
        turn: int
        said: dict[str, Any]

        def apply(self, aggregate: Any) -> None:
            aggregate.at_us, aggregate.turn, aggregate.epoch = self.at_us, self.turn, self.epoch
            if self.type == "STATE_CHANGED":
                aggregate.phase = self.said["to_phase"]
            elif self.type == "COMMAND_ISSUED":
                aggregate.pending[self.said["command_id"]] = self.said
            elif self.type in TERMINAL:
                aggregate.pending.pop(self.said["command_id"], None)


class Counter(Aggregate):
    """The smallest useful aggregate: two fields."""

    class Said(Aggregate.Event):
        text: str
        at_us: int

        def apply(self, aggregate: Any) -> None:
            aggregate.text = self.text


def logs() -> list[list[bytes]]:
    """Encoded inputs of simulated conversations, one list per seed."""
    return [[encode(e) for e in simulate(seed, replayed=False).log if isinstance(e, Input)] for seed in range(SEEDS)]


def write(path: Path, inputs: list[list[bytes]], events: int, first: int = 0) -> int:
    """Write a recording of at least `events` events, with unique session ids. Returns the number written."""
    count = 0
    with path.open("wb") as file:
        file.write(Header(reducer_version=REDUCER_VERSION).model_dump_json().encode() + b"\n")
        for round_ in range(first, 1_000_000):
            for seed, lines in enumerate(inputs):
                old, new = b"auto_session_%d" % seed, b"session_%d_%d" % (round_, seed)
                replayer = Replayer(Header(derived=False), path.name)
                said: list[bytes] = []
                replayer.listen = lambda _, step, said=said: said.extend(map(encode, step.events))
                replayer.run([line.replace(old, new) for line in lines])
                file.write(b"".join(line + b"\n" for line in said))
                count += len(said)
                if count >= events:
                    return count
    raise AssertionError("unreachable")


def orch(*files: Path, jobs: int = 1) -> tuple[float, float]:
    """Wall and processor seconds of a quiet replay, including process start."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    command = [sys.executable, "-m", "cli", "replay", "--quiet", "--jobs", str(jobs), *map(str, files)]
    subprocess.run(command, check=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def processor_ms(*arguments: str) -> float:
    """Processor milliseconds of a Python process, from start to end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def peak_mb(file: Path) -> float:
    """Peak memory of a replay in MB, measured by a process that starts only this one."""
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", program, sys.executable, "-m", "cli", "replay", "--quiet", str(file)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024


def theirs(path: Path) -> Iterator[tuple[str, Any]]:
    """For each aggregate of the library: its name, a function that rebuilds it, and the number of events."""
    app, ids, count = Application[Any](), [], 0
    aggregate: Any = None
    with path.open("rb") as file:
        next(file)
        for line in file:
            event = decode(line)
            raw = json.loads(line)
            said = {name: value for name, value in raw.items() if name not in ENVELOPE}
            if aggregate is None or aggregate.session_id != event.session_id:
                if count >= THEIRS:
                    break
                aggregate = SessionAggregate._create(SessionAggregate.Opened, said=said)
                aggregate.session_id = event.session_id
                ids.append(aggregate.id)
            else:
                fields = {name: raw[name] for name in ("type", "at_us", "cause", "epoch", "turn")}
                aggregate.trigger_event(SessionAggregate.Said, **fields, said=said)
            app.save(aggregate)
            count += 1
    yield "equivalent", (lambda: [app.repository.get(each) for each in ids], count)
    counter = Counter()
    for at_us in range(THEIRS // 2):
        counter.trigger_event(Counter.Said, text="hello", at_us=at_us)
    app.save(counter)
    yield "two fields", (lambda: app.repository.get(counter.id), THEIRS // 2)


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        inputs = logs()
        whole, tenth = Path(folder) / "whole.jsonl", Path(folder) / "tenth.jsonl"
        events = write(whole, inputs, events)
        write(tenth, inputs, events // 10)
        parts = [Path(folder) / f"part{index}.jsonl" for index in range(PARTS)]
        halves = sum(write(part, inputs, events // 10, first=index * 1_000) for index, part in enumerate(parts))
        rates: dict[str, float] = {}

        def note(name: str, rate: float) -> None:
            rates[name] = max(rate, rates.get(name, 0))

        rebuilds = dict(theirs(tenth))
        for _ in range(ROUNDS):
            for name, (rebuild, count) in rebuilds.items():
                began = time.process_time()
                rebuild()
                note(name, count / (time.process_time() - began))
            note("orch replay", events / orch(whole)[1])
            note("1 job", halves / orch(*parts, jobs=1)[0])
            note("2 jobs", halves / orch(*parts, jobs=2)[0])
        print(
            f"{events:,} events, {whole.stat().st_size / events:.0f} B each; best of {ROUNDS}; {os.cpu_count()} cores"
        )
        for name in ("equivalent", "two fields"):
            print(f"eventsourcing, {name:12} {rates[name]:9,.0f} events/s of processor time")
        print(f"orch replay, one core       {rates['orch replay']:9,.0f} events/s of processor time")
        for name in ("equivalent", "two fields"):
            print(f"  {rates['orch replay'] / rates[name]:.2f} times eventsourcing, {name}")
        print(f"two cores                   {rates['2 jobs'] / rates['1 job']:.2f} times one, on {PARTS} files")
        tenth_mb, whole_mb = peak_mb(tenth), peak_mb(whole)
        help_ms, bare_ms = (min(processor_ms(*a) for _ in range(ROUNDS)) for a in (("-m", "cli", "--help"), ("-c", "")))
        print(f"orch --help                 {help_ms:.0f} ms of processor time, bare Python {bare_ms:.0f} ms")
        print(f"peak memory                 {tenth_mb:.0f} MB of {events // 10:,} events, {whole_mb:.0f} MB of all")


if __name__ == "__main__":
    main()
