"""Measures what a call costs, and how many calls a core carries.

The service runs on one core, the callers on the other; these send prebuilt Opus packets over real SRTP and decode
nothing (bench/prebuilt_peer.py). Kinds: `text` (a WebSocket alone), `quiet` (WebRTC, a microphone that rests in
silence, as browsers do where the answer allows it), `sending` (the same, with 50 packets of silence a second),
`talking` (a question every 6 s, answered aloud) and `streaming` (the same, answered word by word). Prints the processor
milliseconds of the service per second of call, by process, and the time from the end of a question to the first sound
of its answer.

`--most KIND` adds calls until the event loop is more than 10 ms late in 1 % of the looks, or an answer comes 1.5 times
as late (p95) as in one call. `--beside aiortc` measures bare aiortc with the same VAD instead of orch
(bench/bare_aiortc.py), `--beside pipecat` Pipecat's WebRTC transport and VAD (bench/peers/pipecat_calls.py).
`--processes N` lets N processes take the calls, on all cores together with the callers.

Run: `uv run python -m bench.calls [CALLS] [SECONDS] [--only KIND] [--most KIND] [--beside NAME] [--processes N]`.
To compare two commits, run it in each in turn.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from bench.bare_aiortc import WORDS
from bench.peers.environments import python_of
from bench.prebuilt_peer import PrebuiltPeer
from orchestrator.media.resampling import SPEECH_RATE_HZ
from tests.calls.service import Caller, Service
from tests.media.speech import resample, speak

SETTLED_S = 2.0
QUESTION = "when are you open"
PIPECAT_RATE_HZ = 24_000
"""Of its answer: as in bench/peers/pipecat_calls.py, which needs another environment."""
EVERY_S = 6.0
LATE_S, LATE_SHARE, SLOWER = 0.01, 0.01, 1.5
GROWTH = 1.5
"""The factor from one number of calls to the next."""
NAMES = {"redis-server": "redis", "history.process": "history", "_worker": "recogniser"}
"""Part of a command line → what the process is called here; any other is the node."""
TICKS_PER_MS = os.sysconf("SC_CLK_TCK") / 1000
resting = partial(Caller, peers=partial(PrebuiltPeer, may_rest=True))

KINDS: dict[str, Callable[[Service], Caller]] = {
    "text": partial(Caller, voice=False),
    "quiet": resting,
    "sending": partial(Caller, peers=PrebuiltPeer),
    "talking": resting,
    "streaming": resting,
}
ASKING = ("talking", "streaming")
BESIDE = ("quiet", "sending", "talking")
"""Kinds that the others can carry, too."""


class OtherService(Service):
    """A service of another kind, with the same callers."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder, ORCH_AUTH="none")
        self.command = ["bench.bare_aiortc"]
        if name == "pipecat":
            speech = folder / "speech.pcm"
            speech.write_bytes(resample(speak(WORDS), SPEECH_RATE_HZ, PIPECAT_RATE_HZ))
            self.command = ["bench.peers.pipecat_calls", str(speech)]
            self.python = python_of("pipecat")


@dataclass(slots=True)
class Measured:
    """A stretch of calls: milliseconds of processor time per call-second by process; how late answers came, in ms; the
    share of looks at which an event loop was late.
    """

    calls: int
    per: dict[str, float]
    turns_ms: list[float] = field(default_factory=list)
    late_share: float = 0.0

    @property
    def p95_ms(self) -> float:
        ordered = sorted(self.turns_ms) or [0.0]
        return ordered[int(len(ordered) * 0.95)]

    def line(self, kind: str) -> str:
        parts = "  ".join(f"{name} {ms:5.1f}" for name, ms in self.per.items())
        p50_ms = sorted(self.turns_ms)[len(self.turns_ms) // 2] if self.turns_ms else 0
        asked = f"; {len(self.turns_ms)} answers, p50 {p50_ms:.0f}, p95 {self.p95_ms:.0f} ms" if self.turns_ms else ""
        return f"{kind:9} {self.calls:3} calls: {parts} ms per call-second; late {self.late_share:.2%}{asked}"


def processor_ms(pid: int) -> Counter[str]:
    """What a process and all below it have used, by name."""
    used: Counter[str] = Counter()
    for one in tree(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{one}/cmdline").read_text()
        except FileNotFoundError:  # it has ended
            continue
        name = next((name for part, name in NAMES.items() if part in command), "node")
        used[name] += round((int(fields[11]) + int(fields[12])) / TICKS_PER_MS)
    return used


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children"))
    return [pid, *(found for child in children.split() for found in tree(int(child)))]


async def loop_looks(service: Service, calls: int) -> tuple[float, float]:
    """How often the event loops were looked at, and how often they were not late; (0, 0) if it is not orch. Checks that
    all calls are still there.
    """
    if isinstance(service, OtherService):
        return 0, 0
    shown = {"Authorization": f"Bearer {service.token('operate')}"}
    async with aiohttp.ClientSession() as http, http.get(f"{service.url}/metrics", headers=shown) as answer:
        families = text_string_to_metric_families(await answer.text())
    samples = [one for family in families for one in family.samples]
    active = sum(one.value for one in samples if one.name == "orch_session_active")
    assert active == calls, f"{active:.0f} of {calls} calls are left"
    buckets = [one for one in samples if one.name == "orch_eventloop_lag_seconds_bucket"]
    total, in_time = (
        sum(one.value for one in buckets if float(one.labels["le"]) == limit) for limit in (float("inf"), LATE_S)
    )
    return total, in_time


class Calls:
    """Calls of one kind to one service; more can be added."""

    def __init__(self, service: Service, kind: str, stack: AsyncExitStack) -> None:
        self._service = service
        self._kind = kind
        self._stack = stack
        self._callers: list[Caller] = []
        self._turns_ms: list[float] = []

    async def grow(self, calls: int) -> None:
        while len(self._callers) < calls:
            caller = await self._stack.enter_async_context(KINDS[self._kind](self._service))
            self._callers.append(caller)
            if not isinstance(self._service, OtherService):
                await caller.send(type="text", text="hello")  # who says nothing at all is sent away after 30 s
            if self._kind in ASKING:
                asking = asyncio.create_task(self._ask_now_and_then(caller))
                self._stack.callback(asking.cancel)

    async def measured(self, seconds: float) -> Measured:
        await asyncio.sleep(SETTLED_S)
        pid, calls = self._service.process.pid, len(self._callers)
        looks, self._turns_ms = await loop_looks(self._service, calls), []
        before, began_s = processor_ms(pid), monotonic()
        await asyncio.sleep(seconds)
        used, took_s = processor_ms(pid) - before, monotonic() - began_s
        per = {name: used[name] / took_s / calls for name in ("node", "recogniser", "redis", "history")}
        total, in_time = (now - then for now, then in zip(await loop_looks(self._service, calls), looks, strict=True))
        return Measured(calls, per, self._turns_ms, 1 - in_time / total if total else 0)

    async def _ask_now_and_then(self, caller: Caller) -> None:
        peer, pcm = caller.peer, speak(QUESTION)
        assert isinstance(peer, PrebuiltPeer)
        await asyncio.sleep(random.random() * EVERY_S)
        while True:
            asked_s = monotonic()
            await peer.say(pcm)
            await asyncio.sleep(max(0.0, asked_s + EVERY_S - monotonic()))
            if (heard_s := peer.audible_s(peer.microphone.ended_s)) is not None:
                self._turns_ms.append((heard_s - peer.microphone.ended_s) * 1000)


async def most(service: Service, kind: str, seconds: float) -> None:
    """Add calls until a limit is passed."""
    async with AsyncExitStack() as stack:
        calls, count, one = Calls(service, kind, stack), 1, None
        while True:
            await calls.grow(count)
            found = await calls.measured(seconds)
            print(found.line(kind), flush=True)
            one = one or found
            if found.late_share > LATE_SHARE or found.p95_ms > SLOWER * one.p95_ms:
                return
            count = max(count + 4, int(count * GROWTH))


def service_for(options: argparse.Namespace, kind: str, folder: Path) -> Service:
    if options.beside:
        return OtherService(folder, options.beside)
    agent = "bench.streaming_agent:agent" if kind == "streaming" else ""
    return Service(folder, agent=agent, processes=options.processes, ORCH_MAX_SESSIONS="1000")


async def main(options: argparse.Namespace) -> None:
    cores = sorted(os.sched_getaffinity(0))
    speak(QUESTION)
    for kind in [options.most] if options.most else KINDS:
        if options.only not in kind or (options.beside and kind not in BESIDE):
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.sched_setaffinity(0, {cores[0]} if options.processes == 1 else cores)
            async with service_for(options, kind, Path(folder)) as service:
                os.sched_setaffinity(0, {cores[-1]} if options.processes == 1 else cores)
                await asyncio.sleep(SETTLED_S)
                if options.most:
                    await most(service, kind, options.seconds)
                    continue
                async with AsyncExitStack() as stack:
                    calls = Calls(service, kind, stack)
                    await calls.grow(options.calls)
                    print((await calls.measured(options.seconds)).line(kind), flush=True)


def options_of(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("calls", type=int, nargs="?", default=10)
    parser.add_argument("seconds", type=float, nargs="?", default=20.0, help="of each stretch")
    parser.add_argument("--only", default="", help="kinds whose name has these letters")
    parser.add_argument("--most", default="", choices=[*KINDS, ""], help="how many calls of this kind a core carries")
    parser.add_argument("--beside", default="", choices=["aiortc", "pipecat", ""], help="instead of orch")
    parser.add_argument("--processes", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    asyncio.run(main(options_of(sys.argv[1:])))
