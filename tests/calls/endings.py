"""Calls that end in ugly ways, by ten callers of one process at a time, and what the service keeps of them.

`python -m tests.calls.endings [CALLS] [--only WORD]` is the long form: so many calls of each way (200). A service with
ten lines runs in this process. As soon as ten calls have ended, ten new callers come; printed is the longest time until
all of them have a line. In the end every socket, file and task of the calls must be gone.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
from aiortc import RTCDtlsTransport
from aiortc.rtp import RtcpByePacket, RtpPacket

from orchestrator import Orchestrator, Settings
from tests.calls.service import Caller, Service

LINES = 10
SOON_S = 20.0
FREE_S = 1.0
"""The bound for ten lines."""
UNCHANGED_S = 2.0
SOURCES = 200
AGAIN_S = 0.05
POLICY = "deadlines:\n  reconnect_ms: 300\n"
"""A caller who is gone does not come back: sessions end at once, so that nothing is kept for them."""
Callers = list[Caller]


async def in_a_call(callers: Callers) -> None:
    await asyncio.gather(*(caller.call(caller.peer) for caller in callers))


async def half_an_offer(callers: Callers) -> None:
    """Offered, and answered; no check comes."""
    for caller in callers:
        await caller.send(type="webrtc_offer", sdp=await caller.peer.offer())
        await caller.hears("webrtc_answer")


async def without_dtls(callers: Callers) -> None:
    """ICE's checks succeed, and no handshake follows."""

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    RTCDtlsTransport.start = never  # type: ignore[method-assign] # this process has no other calls
    calls = [asyncio.create_task(caller.call(caller.peer)) for caller in callers]
    await asyncio.wait(calls, timeout=1)


async def while_the_agent_speaks(callers: Callers) -> None:
    await in_a_call(callers)
    for caller in callers:
        await caller.send(type="text", text="hello")
    await asyncio.gather(*(caller.hears("playback_start") for caller in callers))


async def abort(callers: Callers) -> None:
    for caller in callers:
        caller._socket._response.connection.transport.abort()


async def leave(callers: Callers) -> None:
    await asyncio.gather(*(caller._socket.close() for caller in callers))


async def bye(callers: Callers) -> None:
    for caller in callers:
        await _dtls(caller)._send_rtp(bytes(RtcpByePacket(sources=[1])))
    await abort(callers)


async def many_sources(callers: Callers) -> None:
    for caller in callers:
        for number in range(SOURCES):
            packet = RtpPacket(111, sequence_number=number, timestamp=960 * number, ssrc=1_000 + number)
            packet.payload = b"\xf8\xff\xfe"
            await _dtls(caller)._send_rtp(packet.serialize())
    await abort(callers)


async def media_first(callers: Callers) -> None:
    await asyncio.gather(*(caller.peer.close() for caller in callers))
    await leave(callers)


async def another_offer(callers: Callers) -> None:
    for caller in callers:
        await caller.send(type="webrtc_offer", sdp=await type(caller.peer)().offer())
    await abort(callers)


async def stays(_: Callers) -> None:
    """Somebody else ends the process."""
    await asyncio.Event().wait()


def _dtls(caller: Caller) -> Any:
    return caller.peer.connection.getSenders()[0].transport


@dataclass(frozen=True, slots=True)
class Way:
    begin: Callable[[Callers], Awaitable[None]]
    end: Callable[[Callers], Awaitable[None]]
    signals: tuple[signal.Signals, ...] = ()


WAYS = {
    "the connection is aborted": Way(in_a_call, abort),
    "BYE, and gone": Way(in_a_call, bye),
    "200 sources, and gone": Way(in_a_call, many_sources),
    "half an offer": Way(half_an_offer, abort),
    "no DTLS": Way(without_dtls, abort),
    "stopped, then killed": Way(in_a_call, stays, (signal.SIGSTOP, signal.SIGKILL)),
    "killed": Way(in_a_call, stays, (signal.SIGKILL,)),
    "media first": Way(in_a_call, media_first),
    "leaves, and goes on sending": Way(in_a_call, leave),
    "another offer, and gone": Way(in_a_call, another_offer),
    "gone while the agent speaks": Way(while_the_agent_speaks, abort),
}


async def client(name: str, url: str) -> None:
    """Begin ten calls, print a line, and end them when a line comes."""
    way, at = WAYS[name], cast("Service", SimpleNamespace(url=url))
    callers = [Caller(at, voice=False) for _ in range(LINES)]
    for caller in callers:
        await caller.__aenter__()
    await way.begin(callers)
    print("begun", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await way.end(callers)
    print("ended", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    os._exit(0)


def settings_in(folder: Path) -> Settings:
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    return Settings(
        port=0,
        auth="none",
        data_dir=folder / "data",
        ice_host_addresses=("127.0.0.1",),
        max_sessions=LINES,
        policy_file=policy,
    )


@asynccontextmanager
async def ten_lines() -> AsyncIterator[Orchestrator]:
    """A service with ten lines, whose other services answer at once."""

    def words(text: str) -> str:
        return f"You said {text}."

    with tempfile.TemporaryDirectory() as folder:
        ports: dict[str, Any] = {
            "intent": words,
            "answer": words,
            "text_to_speech": lambda _: bytes(2 * 16_000),
            "speech_to_text": lambda _: "",
        }
        async with Orchestrator(settings_in(Path(folder)), **ports) as service:
            yield service


async def newcomers_s(url: str) -> float:
    """How long ten new callers need until each has a line; then they say goodbye."""
    began_s = time.monotonic()
    async with aiohttp.ClientSession() as http:

        async def one() -> float:
            while True:
                try:
                    async with http.ws_connect(f"{url}/orchestrate") as socket:
                        first = await socket.receive()
                        if first.type is aiohttp.WSMsgType.TEXT and first.json()["type"] == "session":
                            took_s = time.monotonic() - began_s
                            await socket.send_json({"type": "text", "text": "hello"})
                            await socket.send_json({"type": "goodbye"})
                            async for _ in socket:
                                pass
                            return took_s
                except aiohttp.WSServerHandshakeError:
                    pass  # too many at a time: it comes again, and the time counts
                await asyncio.sleep(AGAIN_S)

        async with asyncio.timeout(SOON_S):
            return max(await asyncio.gather(*(one() for _ in range(LINES))))


async def end_ten(name: str, url: str) -> float:
    """Ten calls end in this way; how long ten new callers then need."""
    way = WAYS[name]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.calls.endings", "--client", name, "--url", url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    async with asyncio.timeout(SOON_S):
        assert await process.stdout.readline() == b"begun\n", f"{name}: the calls did not begin"
        process.stdin.write(b"\n")
        if way.signals:
            for sent in way.signals:
                process.send_signal(sent)
        else:
            assert await process.stdout.readline() == b"ended\n"
    took_s = await newcomers_s(url)
    if process.returncode is None:
        process.stdin.write(b"\n")
    await process.wait()
    return took_s


def kept() -> tuple[int, int]:
    """The open files and the tasks of this process."""
    return len([*Path("/proc/self/fd").iterdir()]), len(asyncio.all_tasks())


async def settled(service: Orchestrator, before: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """What is kept once all sessions have ended, and no more is kept than before, or nothing changes any more."""
    found, since_s = kept(), time.monotonic()
    async with asyncio.timeout(2 * SOON_S):
        while service.node.sessions or (_is_more(found, before) and time.monotonic() - since_s < UNCHANGED_S):
            await asyncio.sleep(AGAIN_S)
            if (now := kept()) != found:
                found, since_s = now, time.monotonic()
    return found


def _is_more(now: tuple[int, int], then: tuple[int, int]) -> bool:
    return any(more > before for more, before in zip(now, then, strict=True))


async def measure(service: Orchestrator, name: str, calls: int) -> bool:
    """Whether all went well with so many calls that end in this way; prints the figures."""
    before = await settled(service)
    took_s = sorted([await end_ten(name, service.url) for _ in range(calls // LINES)])
    after = await settled(service, before)
    is_well = took_s[-1] <= FREE_S and not _is_more(after, before)
    if took_s[-1] <= FREE_S and not is_well:  # a pool of connections may have grown, once; a leak grows with each ten
        await end_ten(name, service.url)
        is_well = not _is_more(await settled(service, after), after)
    lines = f"ten lines were free again within {took_s[-1]:.2f} s (median {took_s[len(took_s) // 2]:.2f})"
    left = f"files {before[0]} → {after[0]}, tasks {before[1]} → {after[1]}"
    print(f"{'✓' if is_well else '✗'} {name}: {LINES * len(took_s)} calls; {lines}; {left}", flush=True)
    return is_well


async def main(calls: int, only: str) -> int:
    async with ten_lines() as service:
        for name in WAYS:  # what is loaded and opened once
            await end_ten(name, service.url)
        well = [await measure(service, name, calls) for name in WAYS if only in name]
    return int(not all(well))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("calls", type=int, nargs="?", default=200, help="of each way, in tens")
    parser.add_argument("--only", default="", help="ways whose name has these letters")
    parser.add_argument("--client", default="", help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        asyncio.run(client(options.client, options.url))
    sys.exit(asyncio.run(main(options.calls, options.only)))
