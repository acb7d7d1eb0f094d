"""The talk page follows a conversation that moves to another node."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from orchestrator.gateway.messages import MovedMessage, PhaseMessage, SessionMessage
from tests.browser.chromium import Chromium, chromium_path
from tests.gateway.talk_page_server import PageServer, Wire, page_server

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one or set ORCH_CHROMIUM"),
    pytest.mark.asyncio(loop_scope="module"),
]

SESSION = "auto_session_12345"
READY = SessionMessage(session_id=SESSION, resume_token="token-1")
LISTENING = PhaseMessage(phase="LISTENING", reason="client_connected")
IDS = {"session_id": SESSION, "resume_token": "token-1"}
NOTICES = "document.querySelector('#notices').innerText"


@pytest_asyncio.fixture(loop_scope="module")
async def home() -> AsyncIterator[PageServer]:
    """Where the page comes from."""
    async with page_server() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def other() -> AsyncIterator[PageServer]:
    async with page_server() as running:
        yield running


async def connected(page: Chromium, home: PageServer) -> Wire:
    page.console.clear()
    await page.goto(home.url)
    await page.click("#connect")
    wire = await home.connection()
    await wire.send(READY, LISTENING)
    await page.wait_for("orch.link === 'open'")
    return wire


async def test_the_page_follows_its_conversation(one_browser: Chromium, home: PageServer, other: PageServer) -> None:
    """To the address that it was told, with both ids, without a word to the user; it stays there."""
    wire = await connected(one_browser, home)
    await wire.send(MovedMessage(address=other.url))
    await wire.close(1013, "the service is stopping")
    there = await other.connection()
    assert there.query == IDS
    assert await one_browser.evaluate(NOTICES) == ""
    await there.send(READY, PhaseMessage(phase="THINKING", turn=1))
    await one_browser.wait_for("orch.link === 'open' && orch.phase === 'THINKING'")
    there.drop()
    assert (await other.connection()).query == IDS
    assert home.untaken() == 0
    assert one_browser.console == []


async def test_an_address_that_cannot_be_reached_is_tried_once(one_browser: Chromium, home: PageServer) -> None:
    """Then the page comes back where everybody is sent."""
    wire = await connected(one_browser, home)
    await wire.send(MovedMessage(address="http://127.0.0.1:9"))
    await wire.close(1013, "the service is stopping")
    assert (await home.connection()).query == IDS


async def test_nodes_that_send_the_page_to_and_fro_are_left_alone_for_a_while(
    one_browser: Chromium, home: PageServer, other: PageServer
) -> None:
    """Sent on twice without having got in: the page waits as after any failure, and says so."""
    wire = await connected(one_browser, home)
    await wire.send(MovedMessage(address=other.url))
    await wire.close(1013, "over there")
    there = await other.connection()
    await there.send(MovedMessage(address=home.url))
    await there.close(1013, "over there")
    await one_browser.wait_for("orch.link === 'waiting'")
    assert "over there" in await one_browser.evaluate(NOTICES)
    assert (await home.connection()).query == IDS
