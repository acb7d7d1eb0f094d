"""How many connections there may be, and how long one that asks nothing is kept, over real TCP."""

import asyncio
import logging
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, cast

import aiohttp
import pytest

from orchestrator.gateway import door, server
from orchestrator.gateway.door import OwnDoor, listening
from orchestrator.gateway.server import Gateway
from orchestrator.media.settings import MediaSettings
from tests.gateway.raw_socket import RawSocket
from tests.gateway.talker import Talker
from tests.runtime.conftest import MakeNode
from tests.runtime.support import PATIENCE_S, Running, soon

LINES, SPARE = 2, 8
MOST = SPARE + door.PER_LINE * LINES


@pytest.fixture
async def served(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Running, str]]:
    """A node behind a door of its own."""
    monkeypatch.setattr(door, "SPARE", SPARE)
    monkeypatch.setattr(door, "IDLE_S", 1.0)
    running = await make_node()
    gateway = Gateway(running.node, running.stubs.services(), media=MediaSettings(), max_sessions=LINES)
    async with AsyncExitStack() as stack:
        host, port = await stack.enter_async_context(
            listening(gateway.app(), gateway.connections, [OwnDoor("127.0.0.1", 0)])
        )
        yield running, f"http://{host}:{port}"


async def idle(url: str) -> asyncio.StreamReader:
    """A connection on which nothing is said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    reader.writer = writer  # type: ignore[attr-defined]  # kept open
    return reader


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read() == b""
    except ConnectionError:
        return True


HALF = {
    "nothing": b"",
    "half a line": b"GET /orche",
    "half a header": b"GET /orchestrate HTTP/1.1\r\nHost: localhost\r\nX-Slow: a",
}


@pytest.mark.parametrize("what", HALF)
async def test_a_request_that_does_not_arrive_is_not_waited_for(served: tuple[Running, str], what: str) -> None:
    """Also where a byte comes now and then."""
    reader = await idle(served[1])
    writer: Any = reader.writer  # type: ignore[attr-defined]
    writer.write(HALF[what])
    ending = asyncio.create_task(is_closed(reader))
    for _ in range(40):
        if ending.done():
            break
        if what != "nothing":
            writer.write(b"x")
        await asyncio.sleep(0.1)
    assert ending.done()
    assert await ending


async def test_idle_connections_keep_nobody_out(
    served: tuple[Running, str], http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """Far more than there may be: the oldest make way, conversations stay, and the log says so, once."""
    running, url = served
    talks = Talker(await http.ws_connect(f"{url}/orchestrate"))
    await talks.listening()
    before = [await idle(url) for _ in range(3 * MOST)]
    assert await is_closed(before[0])
    newcomer = Talker(await http.ws_connect(f"{url}/orchestrate"))
    await newcomer.listening()
    await talks.say("goodbye")
    assert await talks.closed() == 1000
    said = [record for record in caplog.records if "connections are open" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.WARNING]
    assert running.node.counters["connections_refused"] >= 2 * MOST - 2


EVIL = b"GET / HTTP/1.1\r\nHost: evil\r\n\r\n"
BODY = (
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 100\r\n\r\n"
)
ASKED = {"a page": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "a wrong host": EVIL, "half a body": BODY}


@pytest.mark.parametrize("what", ASKED)
async def test_who_has_asked_something_keeps_nobody_out(
    served: tuple[Running, str], http: aiohttp.ClientSession, what: str
) -> None:
    """A request alone is no reason to stay: as many as there may be, and a new caller gets in."""
    _, url = served
    kept = [await idle(url) for _ in range(MOST)]
    for one in kept:
        one.writer.write(ASKED[what])  # type: ignore[attr-defined]
    if what == "a page":
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(one.readuntil(b"\r\n\r\n") for one in kept))
    newcomer = Talker(await http.ws_connect(f"{url}/orchestrate"))
    await newcomer.listening()


async def test_a_body_that_never_comes_is_not_waited_for(
    served: tuple[Running, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp has no time limit for it."""
    monkeypatch.setattr(server, "ANSWER_S", 0.1)
    reader = await idle(served[1])
    reader.writer.write(BODY)  # type: ignore[attr-defined]
    async with asyncio.timeout(PATIENCE_S):
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")


async def test_connections_that_were_closed_make_room(served: tuple[Running, str], http: aiohttp.ClientSession) -> None:
    """Many that come and go, one after the other, are not refused."""
    running, url = served
    for _ in range(3 * MOST):
        socket = await RawSocket.connect(url)
        cast("Any", socket.writer.transport).abort()
    await soon(lambda: not running.node.sessions)
    async with http.get(f"{url}/healthz") as answer:
        assert answer.status == 200


def test_a_process_that_may_open_few_files_takes_fewer_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it runs out of them, and can neither accept nor say why."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (512, 512))
    assert door.Connections(1_000, cast("Any", None))._most == 512 - door.OWN_FILES
