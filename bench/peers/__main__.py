"""Measures the same turn in orch, Pipecat and LiveKit Agents: final transcript → first audio, barge-in → request ended.

All ask the model of bench/streaming.py (a process of its own: first token after 300 ms, then 30 ms a token, 60 tokens,
sentences of 12) through OpenAI's client library, and speak with a stub that gives 200 ms of sound after 50 ms. Each
framework is a process of its own; they take turns, in one run. Run:

    uv run --group adapters python -m bench.peers [ROUNDS] [--sessions N]

With --sessions, N sessions of one process on one core ask a question each 6 s, three in a round, while the model has
another core; each framework is started for its round and ended after it, for what it does at rest costs the next one.
Said of these turns is what goes beyond the least time of model and voice.

Each turn is the first of its conversation. OpenAI's client spends 4 ms on a request of one message, 22 on one of
40, 49 on one of 120 (medians of 10, load 6); of a long conversation orch sends the last 40 lines, the others all.

Comparable: the way from the recogniser's final transcript to the first frame at the output, with model, synthesiser,
sentences and machine the same; its parts, by the marks of the model and of the stubs; and the way from the signal of an
interruption in the second sentence to the end of the request, as the model sees it. Requests on a new connection (the
one before was aborted) have a line of their own.

Not comparable, and not measured: microphone, VAD, turn detection and endpointing (delays 0 in all three), network and
sound card; memory. The frameworks differ in their work: orch commits each event to Redis before
it acts, and the others keep the conversation in memory. Pipecat speaks a sentence when the first token of the next one
is there, LiveKit the second one, orch at once unless the words so far may go on ("3." of 3.50): a token is 30 ms, and
counts as the framework's own.
orch runs on uvloop, its default; the others on asyncio, theirs. Pipecat runs without its RTVI messages to a client.
The interruption is BARGE_IN in orch, a proposed user turn in Pipecat, `session.interrupt()` in LiveKit.
"""

import argparse
import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from bench.chat_model import FIRST_S, TOKEN_S
from bench.compare import interval
from bench.peers.environments import ROOT, python_of
from bench.peers.worker import SYNTHESIS_S
from bench.streaming import LAST, Model, model
from bench.turn_latency import quantile

Times = dict[str, int]
LEAST_MS = 1000 * (FIRST_S + LAST * TOKEN_S + SYNTHESIS_S)
PARTS = (
    ("final transcript → model asked", "begin", "asked", True),
    ("→ its first token", "asked", "token", False),
    ("→ its first sentence", "token", "sentence", False),
    ("→ speech asked for", "sentence", "speech asked", True),
    ("→ first chunk of speech", "speech asked", "speech there", False),
    ("→ first audio at the output", "speech there", "first audio", True),
)
"""Each with whether it is the framework's own."""
QUESTIONS = 3
"""Of each session in a round, where many talk at once."""


class Worker:
    """The process of a framework, and the times of its turns."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self._process = process
        self.kept: list[Times] = []
        self.new: list[Times] = []
        """On a new connection to the model."""

    async def read(self) -> Any:
        assert self._process.stdout is not None
        if not (line := await self._process.stdout.readline()):
            raise SystemExit(f"{self.name} has ended, status {await self._process.wait()}; its error is above")
        return json.loads(line)

    def ask(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n".encode())

    async def turn(self, peer: Model, is_interrupted: bool) -> Times:
        self.ask("interrupted turn" if is_interrupted else "turn")
        times: Times = await self.read()
        for name in ("asked", "token", "sentence", *(["aborted"] if is_interrupted else [])):
            times[name] = await peer.said_ns(name)
        return times


@asynccontextmanager
async def worker(name: str, python: Path | str, *arguments: str) -> AsyncIterator[Worker]:
    quiet = os.environ | {"LOGURU_LEVEL": "WARNING"}  # Pipecat's logger
    process = await asyncio.create_subprocess_exec(
        python, "-m", *arguments, stdin=PIPE, stdout=PIPE, cwd=ROOT, env=quiet
    )
    started = Worker(name, process)
    started.name += f" {await started.read()}"
    yield started
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()


def of(rows: list[Times], *spans: tuple[str, str]) -> list[float]:
    """Milliseconds of these spans together, of each turn."""
    return [sum(row[later] - row[earlier] for earlier, later in spans) / 1e6 for row in rows]


def figures(values: list[float]) -> str:
    middle, low, high = interval(values)
    return f"p50 {middle:7.2f} ({low:.2f} to {high:.2f})  p95 {quantile(values, 0.95):7.2f} ms"


def report(ran: Worker) -> None:
    print(f"{ran.name}, {len(ran.kept)} turns")
    for words, earlier, later, _ in PARTS:
        print(f"  {words:34} {figures(of(ran.kept, (earlier, later)))}")
    whole = of(ran.kept, ("begin", "first audio"))
    print(f"  {'in all':34} {figures(whole)}")
    print(f"  {f'beyond {LEAST_MS:.0f} ms':34} {figures([ms - LEAST_MS for ms in whole])}")
    spans = [(earlier, later) for _, earlier, later, is_own in PARTS if is_own]
    print(f"  {'of which in the framework':34} {figures(of(ran.kept, *spans))}")
    print(f"  {'the same on a new connection':34} {figures(of(ran.new, *spans))}")
    print(f"  {'interruption → request aborted':34} {figures(of(ran.kept, ('interrupted', 'aborted')))}", flush=True)


def commands(peer: Model, sessions: int) -> list[tuple[str, Path | str, *tuple[str, ...]]]:
    orch = [sys.executable, "bench.peers.orch_turn"]
    last = [peer.url, str(sessions)]
    return [
        ("orch, pydantic-ai agent,", *orch, "agent", *last),
        ("orch, function,", *orch, "function", *last),
        ("Pipecat", python_of("pipecat"), "bench.peers.pipecat_turn", *last),
        ("LiveKit Agents", python_of("livekit"), "bench.peers.livekit_turn", *last),
    ]


async def one_session(rounds: int) -> None:
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(model())
        workers = [await stack.enter_async_context(worker(*command)) for command in commands(peer, 1)]
        for number in range(-1, rounds):  # the first one warms up
            for at in range(len(workers)):
                ran = workers[(number + at) % len(workers)]
                new, kept = await ran.turn(peer, is_interrupted=False), await ran.turn(peer, is_interrupted=True)
                if number >= 0:
                    ran.new.append(new)
                    ran.kept.append(kept)
        for ran in workers:
            report(ran)


async def many_sessions(rounds: int, sessions: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    beyond: dict[str, list[float]] = {}
    async with model() as peer:
        started = commands(peer, sessions)
        for number in range(rounds):
            for at in range(len(started)):
                os.sched_setaffinity(0, {cores[0]})
                async with worker(*started[(number + at) % len(started)]) as ran:
                    os.sched_setaffinity(0, {cores[-1]})
                    for count in (1, QUESTIONS):  # the first one warms up
                        ran.ask(f"questions {count}")
                        for _ in range(count * sessions):
                            await peer.said_ns("sentence")
                        rows = await ran.read()
                beyond.setdefault(ran.name, []).extend(ms - LEAST_MS for ms in of(rows, ("begin", "first audio")))
    print(f"{sessions} sessions on one core, final transcript → first audio, beyond {LEAST_MS:.0f} ms")
    for name, values in beyond.items():
        print(f"  {name:34} {figures(values)}, {len(values)} turns")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rounds", type=int, nargs="?", default=20)
    parser.add_argument("--sessions", type=int, default=1)
    options = parser.parse_args()
    asyncio.run(
        many_sessions(options.rounds, options.sessions) if options.sessions > 1 else one_session(options.rounds)
    )
