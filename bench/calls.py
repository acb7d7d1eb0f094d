"""Measures what a call costs: processor milliseconds of the service per second of call, by kind of call and by process.

The service runs on one core, the callers on the other. Kinds: `text` (a WebSocket alone), `quiet` (WebRTC, a microphone
that rests in silence, as browsers do), `sending` (the same, with 50 packets of silence a second) and `talking` (a
question every 6 s, answered aloud). Callers are aiortc peers.

Run: `uv run python -m bench.calls [CALLS] [SECONDS]`. To compare two commits, run it in each in turn.
"""

import asyncio
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from time import monotonic

from tests.calls.service import Caller, Service
from tests.media.peer import CallPeer
from tests.media.speech import speak

SETTLED_S = 2.0
QUESTION = "when are you open"
EVERY_S = 6.0
NAMES = {"redis-server": "redis", "history.process": "history", "_worker": "recogniser"}
"""Part of a command line → what the process is called here; any other is the node."""
TICKS_PER_MS = os.sysconf("SC_CLK_TCK") / 1000

KINDS: dict[str, Callable[[Service], Caller]] = {
    "text": partial(Caller, voice=False),
    "quiet": partial(Caller, peers=partial(CallPeer, rests=True)),
    "sending": Caller,
    "talking": partial(Caller, peers=partial(CallPeer, rests=True)),
}


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


async def ask_now_and_then(caller: Caller) -> None:
    pcm = speak(QUESTION)
    await asyncio.sleep(random.random() * EVERY_S)
    while True:
        asked_s = monotonic()
        await caller.peer.say(pcm)
        await asyncio.sleep(max(0.0, asked_s + EVERY_S - monotonic()))


async def measure(service: Service, kind: str, calls: int, seconds: float) -> None:
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(KINDS[kind](service)) for _ in range(calls)]
        asking = [asyncio.create_task(ask_now_and_then(one)) for one in callers if kind == "talking"]
        await asyncio.sleep(SETTLED_S)
        before, began_s = processor_ms(service.process.pid), monotonic()
        await asyncio.sleep(seconds)
        used, took_s = processor_ms(service.process.pid) - before, monotonic() - began_s
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        answers = sum(message["type"] == "reply" for one in callers for _, message in one.messages)
    per = {name: used[name] / took_s / calls for name in ("node", "recogniser", "redis", "history")}
    parts = "  ".join(f"{name} {ms:5.1f}" for name, ms in per.items())
    print(f"{kind:8} {calls} calls: {parts} ms per call-second; {answers} answers", flush=True)


async def main(calls: int, seconds: float) -> None:
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        os.sched_setaffinity(0, {cores[0]})
        async with Service(Path(folder), ORCH_MAX_SESSIONS="1000") as service:
            os.sched_setaffinity(0, {cores[-1]})
            await asyncio.sleep(SETTLED_S)
            for kind in KINDS:
                await measure(service, kind, calls, seconds)


if __name__ == "__main__":
    asyncio.run(main(int((sys.argv[1:] or ["10"])[0]), float((sys.argv[2:] or ["20"])[0])))
