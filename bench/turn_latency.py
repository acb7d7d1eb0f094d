"""Measures the latency that orch itself adds to a turn: STT_FINAL appended → first agent audio handed to playback.

Stubs in all four ports answer at once. Redis is real, and each event is durable before its commands run. The same run
measures the two Redis round trips that any durable turn needs (append → read → append → read): their ratio allows
comparing machines. Run: `uv run python bench/turn_latency.py [TURNS]`
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cli.terminal import run as run_loop
from events.derived import ProcessingComplete, StateChanged, TurnStarted
from events.envelope import Event
from events.inputs import HandlerAttached, IntentResolved, RagAnswered, SttFinal
from orchestrator.runtime.effects.effects import Services
from orchestrator.runtime.live_session import HandlerPlaybackEnd, LiveSession
from orchestrator.runtime.node import Node
from orchestrator.runtime.redis.connection import connect
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from orchestrator.services.ports import (
    NO_SPEAKER,
    Answer,
    Intent,
    Recognizer,
    Request,
    Speaker,
    SpeechChunk,
    Transcript,
)
from orchestrator.session.commands import MicrophoneSetting

WARM_UP = 30
PAUSE_S = 0.002
"""Pause between turns, and equally between bare hops: a processor is slower after an idle time."""
TURN_LIMIT_S = 10.0
"""A turn that takes longer has failed: the log says why."""
JOIN = "join beyond slower"


@dataclass
class Marks:
    """Times of the current turn's stations, in nanoseconds of perf_counter."""

    at: dict[str, int] = field(default_factory=dict)
    join_us: int = 0
    """Microseconds of PROCESSING_COMPLETE beyond the time of the slower service."""

    def set(self, name: str) -> None:
        self.at.setdefault(name, time.perf_counter_ns())


class Stubs:
    """All four service ports, answering at once."""

    def __init__(self, marks: Marks) -> None:
        self.marks = marks

    async def classify(self, request: Request) -> Intent:
        self.marks.set("services asked")
        return Intent("greeting", 900)

    async def stream(self, request: Request) -> AsyncGenerator[str | Answer, None]:
        yield Answer("Hello there.")

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        self.marks.set("speech asked")
        yield SpeechChunk(bytes(8_820), 22_050)

    async def open(
        self,
        on_transcript: Callable[[Transcript], None],
        on_error: Callable[[str], None],
        speaker: Speaker = NO_SPEAKER,
    ) -> Recognizer:
        raise NotImplementedError


@dataclass
class End:
    """A playback that the client has heard to its end."""

    confirmed_by: Literal["client", "timer"] = "client"
    position_ms: int = 200


class StubHandler:
    """A media handler that marks when it gets audio."""

    handler_id = "fastrtc_bench"
    unheard_ms = 0

    def __init__(self, marks: Marks) -> None:
        self.marks = marks

    def play(
        self, playback_id: str, on_started: Callable[[], None], on_progress: Callable[[int], None]
    ) -> "StubHandler":
        return self

    async def write(self, chunk: SpeechChunk) -> None:
        self.marks.set("first audio")

    async def finish(self) -> HandlerPlaybackEnd:
        return End()

    def set_microphone(self, setting: MicrophoneSetting) -> None: ...
    def finish_utterance(self) -> None: ...
    def pause(self, playback_id: str) -> None: ...
    def resume(self, playback_id: str) -> None: ...
    def stop(self, playback_id: str) -> None: ...
    def client_confirmed(self, playback_id: str) -> None: ...
    async def close(self) -> None: ...


class StubClient:
    client_id = "bench"

    def committed(self, event: Event, line: str | None) -> None: ...
    async def show_reply(self, playback_id: str, text: str) -> None: ...
    def clear_text(self) -> None: ...
    def warn(self, code: str, message: str) -> None: ...
    async def close(self, reason: str) -> None: ...
    async def send_away(self, reason: str, address: str = "") -> None: ...


async def measure_turns(url: str, turns: int) -> list[dict[str, float]]:
    """Run turns; for each, the times of its stations in milliseconds from its start."""
    marks = Marks()
    done = asyncio.Event()
    services_us = [0]

    def observe(live: LiveSession, event: Event) -> None:
        match event:
            case TurnStarted():
                marks.set("turn committed")
            case IntentResolved() | RagAnswered():
                services_us.append(event.elapsed_us)
            case ProcessingComplete():
                marks.set("answer committed")
                marks.join_us = event.elapsed_us - max(services_us[-2:])
            case StateChanged(to_phase="LISTENING"):
                done.set()

    stubs = Stubs(marks)
    node = Node(url, Services(stubs, stubs, stubs, stubs), observer=observe)
    await node.start()
    live = node.open_session(StubClient())
    await done.wait()
    live.handler = StubHandler(marks)
    node.report(HandlerAttached(session_id=live.session_id, handler_id="fastrtc_bench"))
    rows = []
    for number in range(turns + WARM_UP):
        done.clear()
        marks.at.clear()
        started = time.perf_counter_ns()
        node.report(SttFinal(session_id=live.session_id, text="hello"))
        async with asyncio.timeout(TURN_LIMIT_S):
            await done.wait()
        if number >= WARM_UP:
            rows.append({name: (at - started) / 1e6 for name, at in marks.at.items()} | {JOIN: marks.join_us / 1e3})
        await asyncio.sleep(PAUSE_S)
    await node.stop()
    return rows


async def measure_hops(url: str, turns: int) -> list[float]:
    """Milliseconds to append an entry and read it in another task, twice: the minimum of a durable turn."""
    redis = connect(url)
    seen: asyncio.Queue[None] = asyncio.Queue()

    async def read() -> None:
        last = "$"
        while True:
            for _, entries in await redis.execute_command("XREAD", "BLOCK", 4_000, "STREAMS", "bench", last):
                last = entries[-1][0]
                seen.put_nowait(None)

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    took = []
    for number in range(turns + WARM_UP):
        started = time.perf_counter_ns()
        for _ in range(2):
            await redis.execute_command("XADD", "bench", "*", "e", b"x" * 300)
            await seen.get()
        if number >= WARM_UP:
            took.append((time.perf_counter_ns() - started) / 1e6)
        await asyncio.sleep(PAUSE_S)
    reader.cancel()
    await redis.aclose()
    return took


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[int(len(values) * part)]


def figures(values: list[float]) -> str:
    return f"p50 {quantile(values, 0.5):6.2f}  p95 {quantile(values, 0.95):6.2f} ms"


async def main(turns: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedRedis(Path(folder)) as url:
            hops = await measure_hops(url, turns)
            rows = await measure_turns(url, turns)
    print(f"{turns} turns, from STT_FINAL appended:")
    for name in ("turn committed", "services asked", "answer committed", "speech asked", "first audio", JOIN):
        print(f"  {name:18} {figures([row[name] for row in rows])}")
    print(f"  {'two bare hops':18} {figures(hops)}")
    ratio = statistics.median([row["first audio"] for row in rows]) / statistics.median(hops)
    print(f"  turn / two bare hops: {ratio:.2f}")


if __name__ == "__main__":
    run_loop(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
