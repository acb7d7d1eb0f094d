"""A page follows a live session: each event once and in order, whatever the connection suffers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from redis.asyncio import Redis

from events.codec import encode
from events.derived import SessionEnded
from events.envelope import Event
from events.recording import steps
from orchestrator.console.drawing import drawn
from orchestrator.console.stored import Stored
from tests.browser.chromium import Chromium, chromium_path
from tests.console.conftest import serving
from tests.console.stored_sessions import KEYS, commit, log_named, redis_in
from tests.console.test_console_pages import tab_to

CUTS = 20
LOG = log_named("live", "barge_in.jsonl")


class Connections:
    """The open live connections of the console, to be cut."""

    def __init__(self) -> None:
        self.opened = 0
        self._open: list[web.Request] = []
        self._news = asyncio.Condition()

    def look(self, request: web.Request) -> None:
        if request.path.endswith("/live"):
            self.opened += 1
            self._open.append(request)

    def cut(self) -> None:
        """Break the connection without a word, as a network does."""
        for request in self._open:
            if request.transport is not None:
                request.transport.abort()
        self._open.clear()


async def followed(url: str, after: int = 0) -> AsyncIterator[tuple[int, list[dict]]]:
    """The messages that the server sends, lists of increments with their ids, until it says that the session has
    ended.
    """
    async with aiohttp.ClientSession() as client, client.get(f"{url}/api/sessions/live/live?after={after}") as answer:
        name, at = "message", 0
        async for raw in answer.content:
            field, _, value = raw.decode().strip().partition(": ")
            if field == "event":
                name = value
            elif field == "id":
                at = int(value)
            elif field == "data" and name == "end":
                return
            elif field == "data":
                yield at, json.loads(value)


async def test_increments_continue_behind_any_version(tmp_path: Path) -> None:
    """The id of each message is the version that it brings the page to; only its last step has what each replaces."""
    async with redis_in(tmp_path) as redis:
        await commit(redis, LOG)
        async with serving(Stored(redis, KEYS, None)) as url:
            for after in (0, 40, LOG[-1].version):
                ends = [step[-1].version for step in steps(LOG)]
                found = [message async for message in followed(url, after)]
                parts = [part for _, message in found for part in message]
                assert [part["steps"][0]["version"] for part in parts] == [one for one in ends if one > after]
                events = [event["version"] for part in parts for event in part["events"]]
                assert events == sorted(set(events))
                for at, message in found:
                    assert message[-1]["events"][-1]["version"] == at
                    assert "summary" in message[-1]


async def test_many_viewers_share_one_fold(tmp_path: Path) -> None:
    """All get the same, and the last to leave ends the following."""
    async with redis_in(tmp_path) as redis:
        await commit(redis, LOG[:30], is_live=True)
        async with serving(Stored(redis, KEYS, None)) as url:

            async def versions() -> list[int]:
                return [one["version"] async for _, parts in followed(url) for part in parts for one in part["events"]]

            viewers = [asyncio.create_task(versions()) for _ in range(20)]
            await commit(redis, LOG[30:], is_live=True)
            async with asyncio.timeout(20):
                assert await asyncio.gather(*viewers) == [[event.version for event in LOG]] * 20


@asynccontextmanager
async def begun(redis: Redis) -> AsyncIterator[aiohttp.ClientResponse]:
    """The stream of a live session, after its first increment."""
    await commit(redis, LOG[:30], is_live=True)
    async with (
        serving(Stored(redis, KEYS, None)) as url,
        aiohttp.ClientSession() as client,
        client.get(f"{url}/api/sessions/live/live") as answer,
    ):
        assert await answer.content.readuntil(b"\n\n") == b"retry: 200\n\n"
        assert (await answer.content.readuntil(b"\n\n")).startswith(b"id: ")
        yield answer


async def test_a_following_that_breaks_is_not_the_end(tmp_path: Path) -> None:
    """Redis goes away: the stream just stops, so the page comes back; a session that is over says so."""
    async with redis_in(tmp_path) as redis, begun(redis) as answer:
        async with asyncio.timeout(20):
            while not any("b" in one["flags"] for one in await redis.client_list()):  # noqa: ASYNC110 - until it waits
                await asyncio.sleep(0.01)
            await redis.client_kill_filter(_type="normal", skipme=True)
            assert await answer.content.read() == b""


async def test_a_log_that_nobody_can_read_on_ends_the_stream(tmp_path: Path) -> None:
    """An event of a newer orch: the page would come back for ever."""
    async with redis_in(tmp_path) as redis, begun(redis) as answer:
        line = encode(LOG[30]).replace(b'"type":"', b'"type":"NEWER_')
        await redis.xadd(KEYS.log(LOG[0].session_id), {"e": line}, id=f"0-{LOG[30].version}")
        async with asyncio.timeout(20):
            assert await answer.content.read() == b"event: end\ndata: {}\n\n"


@pytest.mark.browser
@pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one or set ORCH_CHROMIUM")
async def test_a_page_follows_a_call_through_cuts(tmp_path: Path) -> None:
    """No event twice, none missing, the phase is lit; the page is then the one that a reload shows."""
    connections = Connections()
    parts = [*steps(LOG)]
    assert isinstance(parts[-1][-1], Event)
    assert any(isinstance(event, SessionEnded) for event in parts[-1])
    async with redis_in(tmp_path) as redis, Chromium() as page:
        await commit(redis, parts[0], is_live=True)
        async with serving(Stored(redis, KEYS, None), look=connections.look) as url:
            await page.view(1280, 900)
            await page.goto(url)
            for link in ("td.whole a", "nav.views a[href*='view=phases']"):  # by keyboard
                await page.wait_for(f"document.querySelector({json.dumps(link)}) !== null")
                await tab_to(page, link)
                await page.press("Enter", "\r")
            await page.wait_for("document.querySelector('.diagram') && document.querySelector('.chip.live')")
            for number, step in enumerate(parts[1:], 1):
                if number <= CUTS:
                    opened = connections.opened
                    connections.cut()
                    await commit(redis, step, is_live=True)
                    async with asyncio.timeout(20):
                        while connections.opened == opened:  # noqa: ASYNC110 - nobody announces it
                            await asyncio.sleep(0.01)
                else:
                    await commit(redis, step, is_live=True)
            await page.wait_for("[...document.querySelectorAll('.chip')].some((one) => one.innerText === 'ended')", 20)
            assert connections.opened > CUTS
            seen = await page.evaluate("orch.session.events.map((event) => event.version)")
            assert seen == [event.version for event in LOG]
            expected = drawn(LOG)
            for part in ("bars", "said", "turns", "open"):
                assert await page.evaluate(f"orch.session.{part}") == expected[part], part
            assert await page.evaluate("document.querySelector('[data-lit=yes]').dataset.phase") == "ENDED"
