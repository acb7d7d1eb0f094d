"""Several nodes behind one balancer: a client finds its conversation wherever it lands, and follows it to its owner."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urljoin

import aiohttp
import pytest
from aiohttp import web

from events.envelope import Event
from events.inputs import SessionOpened, SessionResumed
from orchestrator.gateway.server import Gateway
from orchestrator.media.settings import MediaSettings
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node
from orchestrator.runtime.shard import Shard
from projections.golden_log import GoldenLog
from tests.door import is_same, joining, refused
from tests.gateway.talker import Service, Talker
from tests.runtime.conftest import Place
from tests.runtime.support import PATIENCE_S, Running, Stubs, Watch, a_session_on, soon

MakeService = Callable[[], Awaitable[Service]]
LEASE_MS = 60_000
"""Nothing here may wait for a look at the leases."""


@pytest.fixture
async def another(place: Place) -> AsyncIterator[MakeService]:
    """Starts nodes that advertise where they really are."""
    started: list[Service] = []

    async def start() -> Service:
        stubs, watch, golden = Stubs(), Watch(), GoldenLog()

        def show(live: LiveSession, event: Event) -> None:
            if live.client is not None:
                live.client.committed(event, golden.line(event))

        watch.on_commit = show
        node = Node(place.url, stubs.services(), observer=watch, keys=place.keys, lease_ms=LEASE_MS)
        runner = web.AppRunner(Gateway(node, stubs.services(), media=MediaSettings()).app(), shutdown_timeout=5.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        node.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.append(Service(Running(node, stubs, watch), runner, node.address))
        await node.start()
        return started[-1]

    yield start
    for service in started:
        await service.runner.cleanup()
        await service.running.node.stop()


async def connect(http: aiohttp.ClientSession, url: str, session: dict[str, str] | None = None) -> Talker:
    """A new conversation, or the one that is named."""
    ids = {name: value for name, value in (session or {}).items() if name != "type"}
    return Talker(await http.ws_connect(urljoin(url, "/orchestrate"), **joining(ids)))


async def moved(client: Talker) -> str:
    """Where the client is sent."""
    address = (await client.until("moved"))["address"]
    assert await client.closed() == 1013
    return str(address)


async def test_a_client_at_the_wrong_node_is_sent_to_the_owner(
    another: MakeService, http: aiohttp.ClientSession
) -> None:
    """It is told the address, goes there, and the conversation goes on."""
    first, second = await another(), await another()
    client = await connect(http, first.url)
    session = await client.listening()
    await client.socket.close()
    address = await moved(await connect(http, second.url, session))
    assert address == first.url
    back = await connect(http, address, session)
    assert is_same(await back.listening(), session)


async def test_where_a_conversation_is_learns_only_who_may_resume_it(
    another: MakeService, http: aiohttp.ClientSession
) -> None:
    """Everybody else is refused without an address."""
    first, second = await another(), await another()
    session = await (await connect(http, first.url)).listening()
    assert await refused(http, second.url, session | {"resume_token": "guess"}) == 401


async def test_calls_are_handed_over_alive_when_a_node_is_drained(
    another: MakeService, http: aiohttp.ClientSession
) -> None:
    """The client is told the new owner's address; the question it had asked is answered there."""
    first, second = await another(), await another()
    first.running.stubs.hold("answer")
    client = await connect(http, first.url)
    session = await client.listening()
    await client.say("text", text="hello")
    await soon(lambda: bool(first.running.stubs.keys("answer")))
    draining = asyncio.create_task(first.running.node.drain())
    address = await moved(client)
    assert address == second.url
    back = await connect(http, address, session)
    await back.until("reply", text="You said hello.")
    async with asyncio.timeout(PATIENCE_S):
        await draining


async def test_a_client_whose_conversation_moves_while_it_comes_back_is_sent_after_it(
    another: MakeService, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connected to the session that the node has left behind, it would hear nothing, and nobody would tell it."""
    first, second = await another(), await another()
    before = await connect(http, first.url)
    session = await before.spoken()
    await before.socket.close()
    asked, go_on, use = asyncio.Event(), asyncio.Event(), Node.use_resume_token

    async def slowly(node: Node, session_id: str, number: int) -> bool:
        asked.set()
        await go_on.wait()
        return await use(node, session_id, number)

    monkeypatch.setattr(Node, "use_resume_token", slowly)
    back = await connect(http, first.url, session)
    await asked.wait()
    draining = asyncio.create_task(first.running.node.drain())
    await second.running.watch.event(session["session_id"], SessionResumed)
    go_on.set()
    assert await moved(back) == second.url
    await draining


async def test_a_node_that_drains_is_not_ready_and_takes_no_call(
    another: MakeService, http: aiohttp.ClientSession
) -> None:
    """503 for the balancer; a client that comes all the same is told so in words."""
    first = await another()
    await first.running.node.drain()
    async with http.get(f"{first.url}/readyz") as answer:
        assert (answer.status, (await answer.json())["ready"]) == (503, False)
    refused = await http.ws_connect(f"{first.url}/orchestrate")
    message = await refused.receive()
    assert message.data == 1013
    assert "being stopped" in str(message.extra)


async def test_a_client_that_is_faster_than_its_conversation_is_waited_for(
    another: MakeService, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new owner is still reading the log: it neither forgets the session nor sends its client away."""
    first, second = await another(), await another()
    session = await (await connect(http, first.url)).spoken()
    reading, go_on, take_over = asyncio.Event(), asyncio.Event(), Shard.take_over

    async def slowly(shard: Shard) -> None:
        reading.set()
        await go_on.wait()
        await take_over(shard)

    monkeypatch.setattr(Shard, "take_over", slowly)
    draining = asyncio.create_task(first.running.node.drain())
    await reading.wait()
    early = await connect(http, second.url, session)
    answer = asyncio.create_task(early.until("session"))
    await asyncio.sleep(0)
    assert not second.running.node.owns(session["session_id"])
    go_on.set()
    assert is_same(await answer, session)
    await second.running.watch.event(session["session_id"], SessionResumed)
    await draining


async def test_a_promised_conversation_is_kept_by_the_next_node(
    another: MakeService, http: aiohttp.ClientSession
) -> None:
    """Its client has said nothing, so there is no log to take over: the first input opens it."""
    first, second = await another(), await another()
    before = await connect(http, first.url)
    session = await before.listening()
    _, code = await asyncio.gather(first.running.node.drain(), before.closed())
    assert code == 1013
    back = await connect(http, second.url, session)
    assert is_same(await back.listening(), session)
    assert not second.running.watch.events
    await back.say("text", text="hello")
    await back.until("reply", text="You said hello.")
    assert len(second.running.watch.all(session["session_id"], SessionOpened)) == 1


async def test_a_conversation_that_has_just_been_taken_is_waited_for(
    another: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis says already that this node owns it, which has not yet heard so itself."""
    first, second = await another(), await another()
    session_id = a_session_on(first.running.node.keys, next(iter(first.running.node.shards)))
    node, places = second.running.node, [second.url, second.url, first.url]

    async def address(_: str) -> str:
        return places.pop(0)

    monkeypatch.setattr(node._ownership, "address", address)
    assert await node.find(session_id) == first.url
    assert places == []


async def test_a_page_of_another_node_is_welcome(another: MakeService, http: aiohttp.ClientSession) -> None:
    """A browser that follows its conversation names the node that its page came from; strangers stay out."""
    first, second = await another(), await another()
    ids = await (await connect(http, first.url)).listening()
    query = {"session_id": ids["session_id"], "resume_token": ids["resume_token"]}
    for origin, code in ((first.url, 1013), ("http://127.0.0.1:1", 1008)):
        socket = await http.ws_connect(f"{second.url}/orchestrate", **joining(query), headers={"Origin": origin})
        assert await Talker(socket).closed() == code
