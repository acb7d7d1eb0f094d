"""The console page follows a conversation that moves to another node."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from orchestrator.gateway.messages import Moved, PhaseChanged, SessionReady
from tests.browser.chromium import Chromium, chromium_path
from tests.gateway.console_server import ConsoleServer, Wire, console_server

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one or set ORCH_CHROMIUM"),
    pytest.mark.asyncio(loop_scope="module"),
]

SESSION = "auto_session_12345"
READY = SessionReady(session_id=SESSION, resume_token="token-1")
LISTENING = PhaseChanged(phase="LISTENING", reason="client_connected")
IDS = {"session_id": SESSION, "resume_token": "token-1"}
NOTICES = "document.querySelector('#notices').innerText"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_browser() -> AsyncIterator[Chromium]:
    async with Chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def home() -> AsyncIterator[ConsoleServer]:
    """Where the page comes from."""
    async with console_server() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def other() -> AsyncIterator[ConsoleServer]:
    async with console_server() as running:
        yield running


async def connected(page: Chromium, home: ConsoleServer) -> Wire:
    page.console.clear()
    await page.goto(home.url)
    await page.click("#connect")
    wire = await home.connection()
    await wire.send(READY, LISTENING)
    await page.wait_for("orch.link === 'open'")
    return wire


async def test_the_page_follows_its_conversation(
    one_browser: Chromium, home: ConsoleServer, other: ConsoleServer
) -> None:
    """To the address that it was told, with both ids, without a word to the user; it stays there."""
    wire = await connected(one_browser, home)
    await wire.send(Moved(address=other.url))
    await wire.close(1013, "the service is stopping")
    there = await other.connection()
    assert there.query == IDS
    assert await one_browser.evaluate(NOTICES) == ""
    await there.send(READY, PhaseChanged(phase="THINKING", turn=1))
    await one_browser.wait_for("orch.link === 'open' && orch.phase === 'THINKING'")
    there.drop()
    assert (await other.connection()).query == IDS
    assert home.untaken() == 0
    assert one_browser.console == []


async def test_an_address_that_cannot_be_reached_is_tried_once(one_browser: Chromium, home: ConsoleServer) -> None:
    """Then the page comes back where everybody is sent."""
    wire = await connected(one_browser, home)
    await wire.send(Moved(address="http://127.0.0.1:9"))
    await wire.close(1013, "the service is stopping")
    assert (await home.connection()).query == IDS


async def test_nodes_that_send_the_page_to_and_fro_are_left_alone_for_a_while(
    one_browser: Chromium, home: ConsoleServer, other: ConsoleServer
) -> None:
    """Sent on twice without having got in: the page waits as after any failure, and says so."""
    wire = await connected(one_browser, home)
    await wire.send(Moved(address=other.url))
    await wire.close(1013, "over there")
    there = await other.connection()
    await there.send(Moved(address=home.url))
    await there.close(1013, "over there")
    await one_browser.wait_for("orch.link === 'waiting'")
    assert "over there" in await one_browser.evaluate(NOTICES)
    assert (await home.connection()).query == IDS
