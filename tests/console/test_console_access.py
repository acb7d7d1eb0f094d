"""The console with tokens: strangers find nothing, a reader without words reads none, a page logs in once."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jwt import PyJWK
from yarl import URL

from orchestrator.console.access import ConsoleGuard
from orchestrator.console.library import Folder
from orchestrator.console.server import Console
from orchestrator.console.stored import Stored
from orchestrator.gateway.access.guard import by_tokens
from orchestrator.gateway.access.keys import FixedKeys, new_pair
from orchestrator.gateway.access.tokens import Tokens, sign
from tests.browser.chromium import Chromium, chromium_path
from tests.console.axe import axe_source, violations
from tests.console.conftest import FIXTURES, served
from tests.console.stored_sessions import KEYS, commit, log_named, redis_in
from tests.console.test_console_looks import LOOKS

ISSUER = "https://shop.example"
PRIVATE, PUBLIC = new_pair()
KEY = PyJWK(PRIVATE)
SEES, READS = ("read_sessions",), ("read_sessions", "read_words")
CALL = "/api/sessions/failures%2Ftool_in_an_answer.jsonl"
PATHS = (
    "/",
    "/sessions/barge_in.jsonl",
    "/compare",
    "/api/facts",
    "/api/sessions",
    CALL,
    f"{CALL}/log",
    f"{CALL}/live",
)
PATHS += (f"{CALL}/why?at=12", f"{CALL}/export", "/api/compare?a=x&b=y", "/static/app.js", "/nothing")
WORDS = re.compile(r"\bsix\b|Let me|table for|people\W+6|order\W+1")
"""What the user, the agent and the tool say in CALL."""


def token(may: tuple[str, ...], subject: str = "olga") -> str:
    return sign(KEY, issuer=ISSUER, audience="orch", subject=subject, grant={"may": may})


def shown(may: tuple[str, ...], subject: str = "olga") -> dict[str, str]:
    return {"Authorization": f"Bearer {token(may, subject)}"}


def guard() -> ConsoleGuard:
    return ConsoleGuard(by_tokens(Tokens(FixedKeys({str(KEY.key_id): KEY}), issuer=ISSUER, audience="orch")), b"s" * 32)


@pytest.fixture
async def console() -> AsyncIterator[str]:
    """The console of the fixtures, with keys."""
    async with served(Console(Folder(FIXTURES), guard()).app()) as url:
        yield url


@asynccontextmanager
async def asking(console: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(console, headers=headers) as client:
        yield client


async def text(client: aiohttp.ClientSession, path: str, status: int = 200, **body: Any) -> str:
    method = "POST" if body else "GET"
    async with client.request(method, URL(path, encoded=True), **body) as answer:
        assert answer.status == status, (path, await answer.text())
        return await answer.text()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (dict[str, str], 401),
        (lambda: {"Authorization": "Bearer nonsense"}, 401),
        (lambda: shown(()), 403),
        (lambda: shown(("voice", "text", "operate")), 403),
        (lambda: shown(("read_words",)), 403),
    ],
)
async def test_without_the_right_to_see_sessions_nothing_is_shown(
    headers: Callable[[], dict[str, str]], status: int, console: str
) -> None:
    """On any path, known or not; words alone are no way in. A token is made when it is shown, since it expires."""
    async with asking(console, headers()) as client:
        for path in PATHS:
            found = await text(client, path, status)
            assert "SESSION_OPENED" not in found
            assert "barge_in" not in found.replace("%2Fsessions%2Fbarge_in", "")
        for path in (f"{CALL}/what-if", "/api/what-if", "/api/dropped?name=x"):
            assert "SESSION" not in await text(client, path, status, data=b"{}")


async def test_a_reader_without_words_reads_none(console: str) -> None:
    """Of users, services, models and tools, in all that the console computes. The rest is as for the others."""
    change = {"settings": {"endpointing": {"incomplete_ms": 200}}}
    beside = "/api/compare?" + "&".join(f"{one}=failures%2Ftool_in_an_answer.jsonl" for one in "ab")
    async with asking(console, shown(READS)) as all_of_it, asking(console, shown(SEES)) as some:
        for path in (
            CALL,
            f"{CALL}/log",
            f"{CALL}/export",
            f"{CALL}/export?format=mermaid",
            f"{CALL}/why?at=41",
            beside,
        ):
            assert WORDS.search(await text(all_of_it, path)), path
            assert not WORDS.search(await text(some, path)), path
        assert WORDS.search(await text(all_of_it, f"{CALL}/what-if", json=change))
        assert not WORDS.search(await text(some, f"{CALL}/what-if", json=change))
        for path in ("/api/sessions?size=500", f"{CALL}/export?redact=1"):
            assert await text(all_of_it, path) == await text(some, path)
        for part in ("steps", "bars", "events", "turns"):
            assert len({len(json.loads(await text(one, CALL))[part]) for one in (all_of_it, some)}) == 1
        assert [json.loads(await text(one, "/api/facts"))["reads_words"] for one in (all_of_it, some)] == [True, False]


async def test_a_reader_without_words_follows_without_words(tmp_path: Path) -> None:
    """Beside a reader of the same live session who may read them."""
    log = log_named("live", "failures/tool_in_an_answer.jsonl")
    async with redis_in(tmp_path) as redis:
        await commit(redis, log, is_live=True)
        async with served(Console(Stored(redis, KEYS, None), guard()).app()) as url:

            async def received(may: tuple[str, ...]) -> str:
                found = ""
                async with asking(url, shown(may)) as client, client.get("/api/sessions/live/live") as answer:
                    async for line in answer.content:
                        found += line.decode()
                        if f"id: {log[-1].version}" in found and line.startswith(b"data:"):
                            return found
                raise AssertionError(found)

            async with asyncio.timeout(20):
                words, none = await asyncio.gather(received(READS), received(SEES))
            assert WORDS.search(words)
            assert not WORDS.search(none)


async def test_what_is_wrong_with_a_recording_quotes_no_words(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"format":"orch.recording"}\n{"type":"my knee hurts"}\n')
    async with served(Console(Folder(tmp_path), guard()).app()) as url:
        for may, is_quoted in ((READS, True), (SEES, False)):
            async with asking(url, shown(may)) as client:
                found = await text(client, "/api/sessions"), await text(client, "/api/sessions/bad.jsonl", 422)
                assert [("knee" in one) for one in found] == [is_quoted] * 2
                assert all("bad.jsonl" in one or "cannot be read" in one for one in found)


async def test_a_dropped_file_is_its_readers_alone(console: str) -> None:
    """Not of somebody else with the same rights; one without words has dropped it without reading it."""
    path, data = "/api/sessions/dropped%2Fx.jsonl", (FIXTURES / "real_call.jsonl").read_bytes()
    async with asking(console, shown(READS)) as olga, asking(console, shown(READS, "anna")) as anna:
        await text(olga, "/api/dropped?name=x.jsonl", data=data)
        assert "SESSION_OPENED" in await text(olga, path)
        assert "no session" in await text(anna, path, 404)


@pytest.mark.parametrize(
    ("to", "leads_to"),
    [
        ("/sessions/a%2Fb.jsonl?v=41&view=why", "/sessions/a%2Fb.jsonl?v=41&view=why"),
        ("//evil.example/", "/"),
        ("/\\evil.example/", "/%5Cevil.example/"),
        ("https://evil.example/", "/"),
        ("/x\r\nSet-Cookie: a=b", "/x%0D%0ASet-Cookie:%20a=b"),
    ],
)
async def test_a_login_leads_to_a_page_of_the_console(to: str, leads_to: str, console: str) -> None:
    async with asking(console, {}) as client:
        where = URL("/login").with_query(to=to)
        async with client.post(where, data={"token": token(SEES)}, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, leads_to)
        for wrong, status in (("", 401), (token(("operate",)), 403)):
            async with client.post(where, data={"token": wrong}, allow_redirects=False) as answer:
                assert answer.status == status
                assert "Set-Cookie" not in answer.headers
        foreign = {"Origin": "https://evil.example"}
        async with client.post(where, data={"token": token(SEES)}, headers=foreign) as answer:
            assert answer.status == 403


@pytest.mark.browser
@pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one or set ORCH_CHROMIUM")
async def test_a_browser_shows_a_token_once(console: str) -> None:
    """A link leads through the form to its page; the cookie opens all others; words are hidden where they must be."""
    for may in (READS, SEES):
        async with Chromium() as page:
            await page.view(1280, 900)
            await page.goto(f"{console}/sessions/barge_in.jsonl?v=79")
            source = await axe_source()
            for width, height, dark in LOOKS:
                await page.view(width, height, dark=dark)
                assert await violations(page, source) == [], (width, dark)
            await page.wait_for("document.activeElement.name === 'token'")  # autofocus comes after the load
            await page.type_text(token(may))
            await page.press_and_load("Enter", "\r")
            await page.wait_for("document.querySelector('.said') !== null")
            assert await page.evaluate("location.pathname + location.search") == "/sessions/barge_in.jsonl?v=79"
            assert await page.evaluate("document.cookie") == "", "scripts cannot read it"
            main = await page.evaluate("document.body.innerText")
            assert ("We are open every" in main) == (may is READS)
            assert ("Words are hidden" in main) == (may is SEES)
            assert await violations(page, source) == []
            await page.goto(console)
            await page.wait_for("document.querySelector('tbody tr') !== null")
            assert [text for _, text in page.console if "401" not in text] == []
