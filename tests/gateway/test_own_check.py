"""`Orchestrator(authenticate=…)`, the operators' address, and what is behind a proxy: one whole service."""

import asyncio
import logging
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from orchestrator import AccessRefused, AccessRequest, Grant, Orchestrator, Settings
from orchestrator.gateway.access import guard
from orchestrator.gateway.access.own_tokens import OwnTokens
from orchestrator.safe_log import guard_our_loggers
from tests.gateway.talker import Talker
from tests.runtime.support import soon

pytestmark = pytest.mark.asyncio(loop_scope="module")
CANARY = "canary-9d1f"
ASKED: list[AccessRequest] = []


async def authenticate(request: AccessRequest) -> Grant | None:
    """By the name in a header, as behind a proxy that knows who it is."""
    ASKED.append(request)
    match request.headers.get("x-user"):
        case "anna":
            return Grant(subject="anna", may=frozenset({"text"}))
        case "operator":
            return Grant(subject="olga", may=frozenset({"operate"}))
        case "banned":
            raise AccessRefused("you are banned until Monday", 403)
        case "broken":
            raise ConnectionError(f"postgres://user:{CANARY}@db is down")
        case "wrong":
            return {"subject": "anna"}  # type: ignore[return-value]
        case "slow":
            await asyncio.Event().wait()
    return None


def words(text: str) -> str:
    return f"You said {text}."


async def console() -> str:
    raise AssertionError("a console would let everybody in: it is another process and cannot call this check")


def sound(_: str) -> bytes:
    return bytes(2 * 160)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Orchestrator]:
    settings = Settings(
        port=0, data_dir=tmp_path_factory.mktemp("own"), operators="127.0.0.1:0", trusted_proxies=("127.0.0.1",)
    )
    async with Orchestrator(
        settings,
        authenticate=authenticate,
        intent=words,
        answer=words,
        text_to_speech=sound,
        speech_to_text=words,
        console=console,
    ) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    ASKED.clear()
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(http: aiohttp.ClientSession, service: Orchestrator, **headers: str) -> tuple[int, str]:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.get(f"{service.url}/orchestrate", headers=headers) as answer:
        return answer.status, await answer.text()


async def test_a_check_of_ones_own_has_no_console(http: aiohttp.ClientSession, service: Orchestrator) -> None:
    for path, status in (("/console", 404), ("/", 200)):
        async with http.get(service.url + path, headers={"x-user": "operator"}) as answer:
            assert answer.status == status
            assert status == 404 or 'id="to-console" hidden' in await answer.text()


async def test_a_grant_of_ones_own_check_lets_in(http: aiohttp.ClientSession, service: Orchestrator) -> None:
    """Any number of conversations, since the grant names no token; only a hash of the subject is kept."""
    for _ in range(2):
        socket = await http.ws_connect(f"{service.url}/orchestrate", headers={"X-User": "anna"})
        client = Talker(socket)
        session = await client.spoken()
        opened, *_ = await service.node.read_log(session["session_id"])
        assert opened.grant["may"] == ["text"]  # type: ignore[attr-defined]
        assert "anna" not in opened.model_dump_json()
        await client.say("goodbye")
        await client.closed()


async def test_a_refusal_says_what_the_check_says(http: aiohttp.ClientSession, service: Orchestrator) -> None:
    """None: 401; AccessRefused: its own words and status; a right that is missing: 403."""
    assert await ask(http, service) == (401, "this service does not know you")
    assert await ask(http, service, X_User="banned") == (403, "you are banned until Monday")
    assert await ask(http, service, X_User="operator") == (403, "this token does not allow to open conversations")
    await soon(lambda: not service.node.sessions)


@pytest.mark.parametrize(
    ("user", "why"),
    [("broken", "ConnectionError"), ("wrong", "it must return a Grant or None"), ("slow", "TimeoutError")],
)
async def test_a_check_that_fails_refuses_without_details(
    http: aiohttp.ClientSession,
    service: Orchestrator,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    user: str,
    why: str,
) -> None:
    """503 in words for the caller, one line with the reason in the log, no password in either."""
    if user == "slow":
        monkeypatch.setattr(guard, "CHECK_S", 0.1)
    guard_our_loggers()  # as the service did; the filter was taken away after the first test
    assert await ask(http, service, X_User=user) == (503, "callers cannot be checked now; try again later")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("the check of a caller ")
    assert why in caplog.text
    assert CANARY not in caplog.text


async def test_two_headers_of_one_name_cannot_hide_one_another(
    http: aiohttp.ClientSession, service: Orchestrator
) -> None:
    """The check sees both, as RFC 9110 (5.3) joins them: a client cannot put its own beside that of a proxy."""
    headers = [("X-User", "mallory"), ("X-User", "anna")]
    async with http.get(f"{service.url}/orchestrate", headers=headers) as answer:
        assert answer.status == 401
    assert ASKED[-1].headers["x-user"] == "mallory, anna"


async def test_a_token_of_one_use_does_not_fit_another(http: aiohttp.ClientSession, service: Orchestrator) -> None:
    """A resume token is no cookie and no token, and a cookie no resume token, though the same nodes made them."""
    own, grant = OwnTokens(lambda: service.node.secret), Grant(subject="anna", may=frozenset({"text"}))
    resume, cookie = own.resume("auto_session_1", 1, grant), own.cookie(grant)
    assert (await ask(http, service, Cookie=f"orch_1={cookie}"))[0] == 426
    assert (await ask(http, service, Authorization=f"Resume {resume}"))[0] == 426
    assert (await ask(http, service, Cookie=f"orch_1={resume}"))[0] == 401
    assert (await ask(http, service, Authorization=f"Resume {cookie}"))[0] == 401
    for wrong in (resume, cookie):
        assert (await ask(http, service, Authorization=f"Bearer {wrong}"))[0] == 401


async def test_operators_have_an_address_of_their_own(http: aiohttp.ClientSession, service: Orchestrator) -> None:
    """Metrics and readiness without a token there, and nothing else; on the public address both need the right."""
    assert service.operators_url not in ("", service.url)
    for path in ("/metrics", "/readyz"):
        for headers, status in (({}, 401), ({"X-User": "anna"}, 403), ({"X-User": "operator"}, 200)):
            async with http.get(service.url + path, headers=headers) as answer:
                assert answer.status == status, path
        async with http.get(service.operators_url + path) as answer:
            assert answer.status == 200
            assert ("orch_access_refused_total" if path == "/metrics" else '"ready": true') in await answer.text()
        async with http.get(service.operators_url + path, headers={"Host": "evil.example"}) as answer:
            assert answer.status == 421
    for path in ("/", "/orchestrate", "/login", "/static/console.js", "/console"):
        async with http.get(service.operators_url + path) as answer:
            assert answer.status == 404, path


async def test_the_check_sees_the_address_that_the_proxy_tells(
    http: aiohttp.ClientSession, service: Orchestrator
) -> None:
    """What the client itself put before it does not count."""
    await ask(http, service, X_Forwarded_For="10.9.9.9, 203.0.113.7")
    await ask(http, service)
    assert [request.address for request in ASKED] == ["203.0.113.7", "127.0.0.1"]
