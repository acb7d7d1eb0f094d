"""`orch serve --processes N`: one address, calls on all of its processes, and none lost when one of them ends."""

import asyncio
import contextlib
import os
import random
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from uuid import uuid4

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from cli.exits import UNUSABLE, USAGE
from events.derived import TurnStarted
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import read_log
from tests.calls.roaming import RoamingCaller
from tests.calls.service import Service
from tests.chaos.redis_server import RedisServer
from tests.cli.service import QUIET, environment, orch_process
from tests.runtime.laws import check_laws

pytestmark = pytest.mark.calls

PROCESSES = 2
SOON_S = 20.0
NEWCOMER_S = 5.0


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def port() -> int:
    """A free port P, with P + 1 (the console's) and those of the processes."""
    while True:
        first = random.randrange(20_000, 32_000)
        try:
            with ExitStack() as probes:
                for number in range(2 + PROCESSES):
                    probes.enter_context(socket.create_server(("127.0.0.1", first + number)))
        except OSError:
            continue
        return first


@pytest.fixture
async def service(tmp_path: Path, stack: AsyncExitStack, port: int) -> Service:
    return await stack.enter_async_context(Service(tmp_path, port=port, processes=PROCESSES, **QUIET))


def children(process: int) -> dict[int, str]:
    """The direct children of a process: id → command line."""
    found = {}
    for child in psutil.Process(process).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # it ended meanwhile
            found[child.pid] = " ".join(child.cmdline())
    return found


def lives(process: int) -> bool:
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


def siblings(service: Service) -> list[int]:
    return sorted(number for number, command in children(service.process.pid).items() if "cli.sibling" in command)


async def metric(service: Service, name: str, url: str = "") -> dict[str, float]:
    """Process → the value of a series without other labels, by the metrics page of all."""
    headers = {} if url else {"Authorization": f"Bearer {service.token('operate')}"}
    async with aiohttp.ClientSession() as http, http.get(f"{url or service.url}/metrics", headers=headers) as answer:
        page = await answer.text()
    samples = [one for family in text_string_to_metric_families(page) for one in family.samples if one.name == name]
    return {one.labels["process"]: one.value for one in samples}


async def active(service: Service) -> dict[str, float]:
    return await metric(service, "orch_session_active")


async def asks(caller: RoamingCaller) -> None:
    """Ask, and hear the answer. One who loses the connection meanwhile comes back and asks again, by the same id."""
    asked = str(uuid4())
    while True:
        with contextlib.suppress(ConnectionError):  # it comes back: a session message follows
            await caller.send(type="text", text="hello", message_id=asked)
        answered = asyncio.create_task(caller.hears("reply", SOON_S))
        came_back = asyncio.create_task(caller.hears("session", SOON_S))
        done, pending = await asyncio.wait([answered, came_back], return_when=asyncio.FIRST_COMPLETED)
        for one in pending:
            one.cancel()
        for one in done:
            one.result()
        if answered in done:
            # A caller who comes back after the end of the answer is told the phase, without a reason.
            await caller.hears("phase", SOON_S, answered.result()["_at_s"], phase="LISTENING")
            return


async def talking(stack: AsyncExitStack, service: Service, count: int) -> list[RoamingCaller]:
    callers = []
    for _ in range(count):
        callers.append(await stack.enter_async_context(RoamingCaller([service], voice=False)))
        await asks(callers[-1])
    return callers


async def test_calls_are_shared_and_what_is_needed_once_runs_once(service: Service, stack: AsyncExitStack) -> None:
    await talking(stack, service, 6)
    shared = await active(service)
    assert sum(shared.values()) == 6
    assert min(shared.values()) >= 2, shared
    commands = Counter(
        name
        for command in children(service.process.pid).values()
        for name in ("cli.sibling", "history.process", "redis-server")
        if name in command
    )
    assert commands == {"cli.sibling": PROCESSES, "history.process": 1, "redis-server": 1}
    async with asyncio.timeout(SOON_S):
        while not (await metric(service, "orch_history_written_total"))["1"]:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)
    assert not (await metric(service, "orch_history_written_total"))["2"], "counted once for all"


async def test_callers_who_come_together_are_shared(service: Service, stack: AsyncExitStack) -> None:
    """The load is looked at before each is accepted."""
    callers = [RoamingCaller([service], voice=False) for _ in range(12)]
    await asyncio.gather(*(stack.enter_async_context(caller) for caller in callers))
    await asyncio.gather(*map(asks, callers))
    shared = await active(service)
    assert sum(shared.values()) == 12
    assert min(shared.values()) >= 2, shared


async def test_a_caller_who_comes_back_at_the_common_address_finds_their_process(
    service: Service, stack: AsyncExitStack, port: int
) -> None:
    """The other process accepts them, since it has less to do, and sends them on."""
    callers = await talking(stack, service, 4)
    for _ in range(8):
        _, writer = await asyncio.open_connection("127.0.0.1", port + 2)
        stack.callback(writer.close)
    for caller in callers:
        caller.breaks()
        await caller.hears("session", SOON_S)
        await asks(caller)
    assert f"http://127.0.0.1:{port + 2}" in {caller.place for caller in callers}


async def test_the_console_and_the_door_of_operators(tmp_path: Path, stack: AsyncExitStack, port: int) -> None:
    operators = f"127.0.0.1:{port}"
    service = Service(tmp_path, processes=PROCESSES, ORCH_OPERATORS=operators, **QUIET)
    await stack.enter_async_context(service)
    assert await metric(service, "orch_session_active", f"http://{operators}") == {"1": 0, "2": 0}
    headers = {"Authorization": f"Bearer {service.token('operate')}"}
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{service.url}/console", headers=headers, allow_redirects=False) as found:
            assert found.status == 302
        async with http.get(found.headers["Location"]) as page:
            assert page.status in (200, 401)
    assert len([1 for command in children(service.process.pid).values() if "cli.console" in command]) == 1


async def test_what_a_process_starts_does_not_keep_the_port(service: Service) -> None:
    """Else a process that outlives its parent would keep callers waiting at a port where nobody accepts."""
    door = sockets(service.process.pid)
    for number in siblings(service):
        door &= sockets(number)
    assert len(door) == 1
    started = [one for number in siblings(service) for one in children(number)]
    assert started, "the recogniser is a process of its own"
    assert not any(sockets(one) & door for one in started)


def sockets(process: int) -> set[str]:
    links = (str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir())
    return {link for link in links if link.startswith("socket:")}


@pytest.fixture
async def with_redis(tmp_path: Path, stack: AsyncExitStack) -> tuple[Service, Redis]:
    """A service whose Redis is seen here, too."""
    server = await stack.enter_async_context(RedisServer())
    service = Service(tmp_path, processes=PROCESSES, ORCH_REDIS_URL=server.url, **QUIET)
    await stack.enter_async_context(service)
    return service, await stack.enter_async_context(Redis.from_url(server.url))


async def all_there(service: Service, gone: Collection[int]) -> list[int]:
    """The processes, once there are as many as before and none of those that are `gone`."""
    async with asyncio.timeout(SOON_S):
        while len(found := siblings(service)) < PROCESSES or set(found) & set(gone):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    return found


async def check_each_answered(redis: Redis, callers: Collection[RoamingCaller], times: int) -> None:
    """Every question began one turn, whatever happened around it."""
    assert await check_laws(redis, Keys()) == len(callers)
    for caller in callers:
        log = await read_log(redis, Keys(), caller.session_id)
        assert len([event for event in log if isinstance(event, TurnStarted)]) == times


async def test_no_call_is_lost_when_a_process_is_killed(
    with_redis: tuple[Service, Redis], stack: AsyncExitStack
) -> None:
    """kill -9: the other takes over its calls, and it is started again."""
    service, redis = with_redis
    callers = await talking(stack, service, 4)
    assert min((await active(service)).values()) > 0
    killed, other = siblings(service)
    os.kill(killed, signal.SIGKILL)
    await asyncio.gather(*map(asks, callers))
    assert other in await all_there(service, [killed])
    await asyncio.gather(*map(asks, callers))
    await check_each_answered(redis, callers, 3)
    assert any("started again" in line for line in service.words)


async def test_all_are_started_again_one_after_the_other_while_calls_go_on(
    with_redis: tuple[Service, Redis], stack: AsyncExitStack
) -> None:
    """SIGHUP, as a deploy of new code does: every caller is answered at any time."""
    service, redis = with_redis
    callers = await talking(stack, service, 4)
    before = siblings(service)
    service.process.send_signal(signal.SIGHUP)
    asked = 1
    arriving = asyncio.create_task(newcomers(service))
    async with asyncio.timeout(3 * SOON_S):
        while not any(line.endswith("all processes are started again") for line in service.words):
            await asyncio.gather(*map(asks, callers))
            assert siblings(service), "one is always there"
            asked += 1
    arriving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await arriving
    assert not set(before) & set(siblings(service))
    await asyncio.gather(*map(asks, callers))
    await check_each_answered(redis, callers, asked + 1)


async def test_a_request_to_restart_that_comes_while_it_starts_changes_nothing(
    tmp_path: Path, stack: AsyncExitStack
) -> None:
    """SIGHUP before there is anything to restart: a deploy may be fast."""
    service = Service(tmp_path, processes=PROCESSES, **QUIET)
    starting = asyncio.create_task(stack.enter_async_context(service))
    async with asyncio.timeout(SOON_S):
        while not any("redis-server" in command for command in commands_below(service)):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.001)
    service.process.send_signal(signal.SIGHUP)
    await starting
    assert len(siblings(service)) == PROCESSES


def commands_below(service: Service) -> list[str]:
    """The command lines of the processes below the service's, as far as it has started."""
    return list(children(service.process.pid).values()) if hasattr(service, "process") else []


async def newcomers(service: Service) -> None:
    """One new caller after the other gets a line, none of them later than NEWCOMER_S after they came."""
    async with aiohttp.ClientSession() as http:
        while True:
            headers = {"protocols": ["orch.v1", f"bearer.{service.token()}"]}
            async with asyncio.timeout(NEWCOMER_S):
                while True:
                    async with http.ws_connect(f"{service.url}/orchestrate", **headers) as line:
                        if (await line.receive()).type is aiohttp.WSMsgType.TEXT:
                            await line.send_json({"type": "goodbye"})
                            break
                    await asyncio.sleep(0.1)  # sent away: it tries again
            await asyncio.sleep(0.2)


async def test_calls_go_on_at_the_next_start(tmp_path: Path, stack: AsyncExitStack, port: int) -> None:
    """SIGTERM ends all at once: the calls stay where they are, for whoever starts next."""
    async with AsyncExitStack() as first:
        service = await first.enter_async_context(Service(tmp_path, processes=PROCESSES, port=port, **QUIET))
        callers = await talking(stack, service, 2)
    assert service.process.returncode == 0
    assert not any(message["type"] == "moved" for caller in callers for _, message in caller.messages)
    await stack.enter_async_context(Service(tmp_path, processes=PROCESSES, port=port, **QUIET))
    await asyncio.gather(*map(asks, callers))


async def test_none_is_left_when_the_starting_process_is_killed(
    with_redis: tuple[Service, Redis], stack: AsyncExitStack
) -> None:
    """None of the others hands calls to one that ends, too."""
    service, _ = with_redis
    callers = await talking(stack, service, 2)
    of_all = children(service.process.pid)
    of_all |= {one: name for number in siblings(service) for one, name in children(number).items()}
    service.process.kill()
    await service.process.wait()
    async with asyncio.timeout(SOON_S):
        while any(map(lives, of_all)):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    assert not any(message["type"] == "moved" for caller in callers for _, message in caller.messages)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--processes", "2", "--reload", "a:b"], "--reload is for one process"),
        (["--processes", "2", "--host", "0.0.0.0"], "ORCH_ADDRESS is missing"),
        (["--processes", "2", "nowhere:agent"], "no module 'nowhere'"),
        (["--processes", "0"], "greater than or equal to 1"),
    ],
)
def test_mistakes_are_told_once(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = orch_process("serve", "--port", "0", *arguments, env=environment(tmp_path, ORCH_AUTH="none"))
    assert result.returncode in (UNUSABLE, USAGE)
    assert result.stderr.count(said) == 1, result.stderr
    assert "Traceback" not in result.stderr


def test_a_process_that_cannot_start_is_told_once(tmp_path: Path) -> None:
    """What only the processes themselves find out: here, that there is no Redis."""
    env = environment(tmp_path, ORCH_REDIS_URL=f"unix://{tmp_path}/none.sock")
    result = orch_process("serve", "--port", "0", "--processes", "2", env=env)
    assert result.returncode == UNUSABLE
    (told,) = [line for line in result.stderr.splitlines() if "cannot start" in line]
    assert "none.sock" in told
    assert "Traceback" not in result.stderr
