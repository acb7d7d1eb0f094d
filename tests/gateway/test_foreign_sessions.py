"""Nobody takes over a session that is not theirs, and each page but liveness asks for a token."""

import aiohttp
import pytest
from aiohttp import web

from orchestrator.gateway.access.pages import LOGIN
from tests.browser.chromium import Chromium, chromium_path
from tests.door import is_same, joining, refused, resume_ids
from tests.gateway.conftest import Serve
from tests.gateway.talker import Service, Talker
from tests.gateway.test_tokens import KEYS, enter, token, tokens_of
from tests.runtime.support import soon

OPERATOR = {"may": ["operate"]}


@pytest.fixture
async def service(serve: Serve) -> Service:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text="orch_session_active 0")

    return await serve(authenticate=tokens_of(*KEYS), metrics=metrics)


async def rejoin(http: aiohttp.ClientSession, service: Service, ids: dict[str, str], token: str = "") -> Talker:
    return Talker(await http.ws_connect(f"{service.url}/orchestrate", **joining(ids, token)))


def ids_of(session: dict[str, str]) -> dict[str, str]:
    return {name: session[name] for name in ("session_id", "resume_token")}


async def used(service: Service, session_id: str, number: int) -> None:
    """Wait until a resume token counts as used: the pong of its client has come."""
    node = service.running.node

    async def newest() -> float:
        return float(await node._redis.zscore(node.keys.rejoined(session_id), "used") or 0)

    seen = [await newest()]
    while seen[-1] < number:
        seen.append(await newest())


async def test_the_id_of_a_session_opens_nothing(http: aiohttp.ClientSession, service: Service) -> None:
    client = await enter(http, service, token())
    session = await client.spoken()
    assert await refused(http, service.url, {"session_id": session["session_id"]}) == 401
    assert await refused(http, service.url, {"session_id": session["session_id"]}, token(sub="bob")) == 401
    assert await refused(http, service.url, ids_of(session) | {"session_id": "auto_session_1"}) == 403
    await client.say("text", text="still here")
    await client.until("reply")


async def test_a_token_in_the_url_is_refused(http: aiohttp.ClientSession, service: Service) -> None:
    """With the reason, and without opening anything, however good it is."""
    session = await (await enter(http, service, token())).listening()
    for query in ({"token": token()}, {"access_token": token()}, ids_of(session)):
        async with http.get(f"{service.url}/orchestrate", params=query) as answer:
            assert answer.status == 400
            assert "does not belong in a URL" in await answer.text()


async def test_a_resume_token_of_somebody_else_is_refused(http: aiohttp.ClientSession, service: Service) -> None:
    """Also with a good token of one's own beside it; the caller's own two tokens fit."""
    client = await enter(http, service, token(sub="anna"))
    session = await client.spoken()
    assert await refused(http, service.url, ids_of(session), token(sub="bob")) == 403
    assert await refused(http, service.url, ids_of(session), token(sub="anna", exp=1)) == 401
    back = await rejoin(http, service, ids_of(session), token(sub="anna"))
    assert is_same(await back.until("session"), session)


async def test_a_copied_resume_token_is_refused_once_its_client_has_the_next_one(
    http: aiohttp.ClientSession, service: Service
) -> None:
    """4404, and the caller is not disturbed."""
    first = await enter(http, service, token())
    session = await first.spoken()
    copied = ids_of(session)
    back = await rejoin(http, service, copied)
    newer = await back.until("session")
    await back.until("phase")  # so that the client has answered the ping
    await used(service, session["session_id"], 2)
    thief = await rejoin(http, service, copied)
    assert await thief.closed() == 4404
    assert thief.heard == []
    await back.say("text", text="still me")
    await back.until("reply")
    assert is_same(await (await rejoin(http, service, ids_of(newer))).until("session"), newer)


async def test_a_refused_resume_token_leaves_no_session_behind(http: aiohttp.ClientSession, service: Service) -> None:
    """Of a conversation without input, which its client has left: Redis only has a promise of it."""
    first = await (await enter(http, service, token())).until("session")
    back = await rejoin(http, service, ids_of(first))
    await back.until("phase")
    await used(service, first["session_id"], 2)
    await back.socket.close()
    node = service.running.node
    await soon(lambda: node.session(first["session_id"]) is None)
    assert await (await rejoin(http, service, ids_of(first))).closed() == 4404
    assert node.session(first["session_id"]) is None


async def test_a_resume_token_is_valid_until_the_next_one_has_arrived(
    http: aiohttp.ClientSession, service: Service
) -> None:
    """A connection that breaks before the client has the new token locks nobody out."""
    session = await (await enter(http, service, token())).spoken()
    for _ in range(3):
        deaf = await http.ws_connect(f"{service.url}/orchestrate", autoping=False, **joining(ids_of(session)))
        await soon(lambda: True)
        deaf._response.connection.transport.abort()  # type: ignore[union-attr]
    back = await rejoin(http, service, ids_of(session))
    assert is_same(await back.until("session"), session)


async def test_of_two_browsers_with_one_resume_token_the_later_one_has_the_session(
    http: aiohttp.ClientSession, service: Service
) -> None:
    session = await (await enter(http, service, token())).spoken()
    one = await rejoin(http, service, ids_of(session))
    newer = await one.until("session")
    other = await rejoin(http, service, ids_of(newer))
    await other.until("session")
    assert await one.closed() == 1008


async def test_an_expired_resume_token_is_refused(
    http: aiohttp.ClientSession, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await (await enter(http, service, token())).spoken()
    monkeypatch.setattr("orchestrator.gateway.access.own_tokens.RESUME_S", -1)
    late = resume_ids(service.running.node, session["session_id"])
    assert await refused(http, service.url, late) == 401


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def paths(app: web.Application) -> list[str]:
    found = [resource.canonical for resource in app.router.resources()]
    return [*found, "/static/console.js", "/nothing", "/orchestrate/", "//metrics", "/static/../metrics"]


async def test_strangers_find_nothing_but_liveness(http: aiohttp.ClientSession, service: Service) -> None:
    """All routes of the router, by all methods: without a token only /healthz answers, and says nothing but alive."""
    assert service.runner.app is not None
    answered = {}
    for path in paths(service.runner.app):
        for method in METHODS:
            async with http.request(method, service.url + path, allow_redirects=False) as answer:
                body = await answer.text()
                if answer.status < 400:
                    answered[method, path] = body
                else:
                    assert answer.status in (401, 403, 404, 405), (method, path, answer.status)
                    assert "orch_session" not in body
    assert answered == {("GET", "/healthz"): '{"alive": true}', ("HEAD", "/healthz"): ""}


@pytest.mark.parametrize("path", ["/", "/metrics", "/readyz", "/static/console.js"])
async def test_pages_of_operators_need_the_right_to_operate(
    http: aiohttp.ClientSession, service: Service, path: str
) -> None:
    for shown, status in ((token(orch=OPERATOR), 200), (token(), 403), ("guess", 401)):
        async with http.get(service.url + path, headers={"Authorization": f"Bearer {shown}"}) as answer:
            assert answer.status == status


async def test_a_page_gets_a_cookie_for_a_token_shown_once(service: Service) -> None:
    """HttpOnly and SameSite=Strict; it comes with each request, also with that of a WebSocket."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        async with http.get(f"{service.url}/") as answer:
            assert answer.status == 401
            assert '<form method="post" action="login">' in await answer.text()
        for wrong in ({"token": "guess"}, {"token": token()}, {}, {"other": token(orch=OPERATOR)}):
            async with http.post(f"{service.url}{LOGIN}", data=wrong, allow_redirects=False) as answer:
                assert answer.status in (401, 403)
                assert not answer.cookies
        good = {"token": token(orch={"may": ["operate", "text"]})}
        async with http.post(f"{service.url}{LOGIN}", data=good, headers={"Origin": "http://evil.example"}) as answer:
            assert answer.status == 403
        async with http.post(f"{service.url}{LOGIN}", data=good, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "./")
            (cookie,) = answer.cookies.values()
            assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
        async with http.get(f"{service.url}/metrics") as answer:
            assert answer.status == 200
        for _ in range(2):  # a page opens one conversation after the other
            client = Talker(await http.ws_connect(f"{service.url}/orchestrate", protocols=["orch.v1"]))
            await client.spoken()


@pytest.mark.browser
@pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one or set ORCH_CHROMIUM")
async def test_a_browser_logs_in_with_the_form(service: Service) -> None:
    """Its Origin comes with the form: without a referrer policy that allows it, a browser says null."""
    async with Chromium() as page:
        await page.goto(f"{service.url}/")
        await page.wait_for("document.activeElement.name === 'token'")  # autofocus comes after the load
        await page.type_text(token(orch={"may": ["operate", "text"]}))
        await page.press_and_load("Enter", "\r")
        assert await page.evaluate("document.title") != "", "the page of a call"
        assert await page.evaluate("document.querySelector('form[action=login]') === null")
        assert await page.evaluate("fetch('/metrics').then((answer) => answer.status)") == 200
