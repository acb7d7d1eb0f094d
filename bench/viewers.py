"""Measures how viewers of live sessions slow calls: turn latency p95 with 50 viewers in the console / without.

Starts `orch serve`, its console, and text conversations with a question every two seconds. Rounds with and without
viewers alternate. A viewer loads the page of a live session and follows it, as a browser does. Viewers share a process
of the lowest priority, since browsers run on other machines. Latency is measured at the caller: text sent → reply.
Prints the median ratio of each round with viewers to the round before without, with its 95 % confidence interval. Exit
code 1: the median is above the goal; a viewer that misses an event ends the run.
Run: `uv run python -m bench.viewers [ROUNDS]`
"""

import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
from itertools import chain, cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import aiohttp

from bench.overload import AcceptedCalls
from bench.turn_latency import figures, quantile
from cli.terminal import run as run_loop
from tests.calls.service import Service

CALLS = 20
VIEWERS = 50
ROUNDS = 10
ROUND_S = 10.0
WARM_UP_S = 4.0
"""After the viewers have come or gone: their loading is over."""
RHYTHM_S = 2.0
GOAL = 1.10


class Viewers:
    """The viewers' process. `come` returns when all follow a session, `go` when all have gone."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_viewers, args=(theirs,), daemon=True)
        self._process.start()
        self.followed = 0
        """Events that viewers have received live."""

    async def come(self, console: str, keys: list[str]) -> None:
        await self._ask((console, keys))

    async def go(self) -> None:
        self.followed += await self._ask(None)

    async def _ask(self, what: object) -> int:
        self._pipe.send(what)
        answer = await asyncio.to_thread(self._pipe.recv)
        assert isinstance(answer, int), answer
        return answer

    def end(self) -> None:
        self._process.terminate()
        self._process.join()


def _viewers(pipe: Connection) -> None:
    os.nice(19)
    asyncio.run(_watch(pipe))


async def _watch(pipe: Connection) -> None:
    watching: list[asyncio.Task[int]] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        while True:
            asked = await asyncio.to_thread(pipe.recv)
            answer: int | str = 0
            if asked is not None:
                console, keys = asked
                there = [asyncio.Event() for _ in keys]
                views = zip(keys, there, strict=True)
                watching = [asyncio.create_task(_view(http, f"{console}api/sessions/{key}", at)) for key, at in views]
                await asyncio.gather(*(one.wait() for one in there))
            else:
                for task in watching:
                    task.cancel()
                done = await asyncio.gather(*watching, return_exceptions=True)
                failed = [repr(one) for one in done if isinstance(one, BaseException)]
                answer = failed[0] if failed else sum(one for one in done if isinstance(one, int))
            pipe.send(answer)


async def _view(http: aiohttp.ClientSession, url: str, is_there: asyncio.Event) -> int:
    """Load a page and follow its session until cancelled; the number of events received live, each exactly once."""
    begun = 0
    try:
        async with http.get(url) as answer:
            version = begun = int((await answer.json())["events"][-1]["version"])
        async with http.get(f"{url}/live?after={version}", timeout=aiohttp.ClientTimeout(total=None)) as answer:
            is_there.set()
            async for line in answer.content:
                if not line.startswith(b"data: ["):
                    continue
                for event in (one for part in json.loads(line[6:]) for one in part["events"]):
                    assert event["version"] == version + 1, f"{url}: {event['version']} follows {version}"
                    version += 1
    except asyncio.CancelledError:
        return version - begun
    finally:
        is_there.set()
    raise AssertionError(f"{url}: the session ended")


async def _live(http: aiohttp.ClientSession, console: str) -> list[str]:
    async with http.get(f"{console}api/sessions?state=live") as answer:
        return [one["key"] for one in (await answer.json())["sessions"]]


async def measure(service: Service, viewers: Viewers, rounds: int) -> dict[bool, list[list[float]]]:
    """Turn latencies of each round: with viewers, and without."""
    took: dict[bool, list[list[float]]] = {True: [], False: []}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        calls = AcceptedCalls(http, service.url, RHYTHM_S)
        await calls.begin(CALLS)
        async with http.get(f"{service.url}/console") as answer:
            console = str(answer.url)
        for number in range(2 * rounds):
            are_there = number % 2 == 1
            if are_there:
                await viewers.come(console, [*islice(cycle(await _live(http, console)), VIEWERS)])
            await asyncio.sleep(WARM_UP_S)
            now: list[float] = []
            calls.took_ms = now
            await asyncio.sleep(ROUND_S)
            calls.took_ms = []
            took[are_there].append(now)
            if are_there:
                await viewers.go()
        assert not calls.broken(), "a conversation ended"
        await calls.end()
    return took


async def main(rounds: int) -> int:
    viewers = Viewers()
    try:
        with tempfile.TemporaryDirectory() as name:
            async with Service(Path(name), ORCH_AUTH="none", ORCH_MAX_SESSIONS=str(CALLS)) as service:
                took = await measure(service, viewers, rounds)
    finally:
        viewers.end()
    print(f"{CALLS} conversations, text sent → reply, {rounds} rounds of {ROUND_S:g} s each:")
    for are_there, words in ((True, f"{VIEWERS} viewers"), (False, "no viewer")):
        print(f"  {words:10} {figures([*chain(*took[are_there])])}   ({sum(map(len, took[are_there]))} turns)")
    print(f"  viewers received {viewers.followed} events, each once")
    for words, part in (("p50", 0.5), ("p95", 0.95)):
        pairs = zip(took[True], took[False], strict=True)
        ratios = sorted(quantile(there, part) / quantile(alone, part) for there, alone in pairs)
        edge = max(0, int(rounds / 2 - 0.98 * rounds**0.5))  # bounds of the median's 95 % confidence interval
        print(f"  {words} with / without: {median(ratios):.2f} ({ratios[edge]:.2f} to {ratios[-1 - edge]:.2f})")
    print(f"  goal: p95 with / without {GOAL:.2f}")
    return int(median(ratios) > GOAL)


if __name__ == "__main__":
    sys.exit(run_loop(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)))
