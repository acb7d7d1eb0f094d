"""The deploy of docs/deploy.md: keys made by `orch token`, Debian's nginx with TLS in front of one node."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.browser.chromium import Chromium, chromium_path
from tests.calls.roaming import RoamingCaller
from tests.calls.service import Service
from tests.cli.service import QUIET, environment, orch, orch_process
from tests.door import is_same, joining
from tests.gateway.test_tls import write_certificate
from tests.media.speech import speak
from tests.network.daemons import missing, nginx

pytestmark = [
    pytest.mark.calls,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(bool(missing("nginx")), reason=missing("nginx")),
]


@dataclass
class Deployed:
    """A service behind nginx, and what callers need."""

    service: Service
    trusted: ssl.SSLContext
    access_log: Path
    folder: Path

    def token(self, may: str = "voice,text") -> str:
        """As the backend of a customer signs it."""
        arguments = ("token", "--key", str(self.folder / "private.json"), "--may", may)
        token = orch(*arguments, env=self.service.environment).stdout.strip()
        self.service.shown.append(token)
        return token


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployed]:
    folder = tmp_path_factory.mktemp("nginx")
    made = orch("token", "--new-key", str(folder / "private.json"), env=environment(folder))
    (folder / "public.json").write_text(made.stdout)
    trusted, port, tls_port = write_certificate(folder, 1), free_port(), free_port()
    settings = {
        "ORCH_AUTH_KEYS": str(folder / "public.json"),
        "ORCH_AUTH_ISSUER": "https://shop.example",
        "ORCH_ADDRESS": f"https://localhost:{tls_port}",
        "ORCH_TRUSTED_PROXIES": "127.0.0.1",
    }
    changes = {
        "listen 443": f"listen 127.0.0.1:{tls_port}",
        "calls.example;": "localhost;",
        "127.0.0.1:8080": f"127.0.0.1:{port}",
        "/etc/ssl/calls.example.pem": f"{folder}/cert.pem",
        "/etc/ssl/calls.example.key": f"{folder}/key.pem",
    }
    async with (
        Service(folder / "data", port=port, **QUIET, **settings) as service,
        nginx(folder / "nginx", changes, "127.0.0.1", tls_port) as access_log,
    ):
        service.url = settings["ORCH_ADDRESS"]
        yield Deployed(service, trusted, access_log, folder)


async def test_strangers_find_nothing_but_liveness_and_a_token_lets_in(deployed: Deployed) -> None:
    """The statuses of docs/security.md come through, and no token is in the log of nginx."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=deployed.trusted)) as http:

        async def status(path: str, **headers: str) -> int:
            async with http.get(f"{deployed.service.url}{path}", headers=headers) as answer:
                return answer.status

        paths = ("/", "/metrics", "/readyz", "/orchestrate")
        assert [await status(path) for path in paths] == [401] * 4
        assert await status("/healthz") == 200
        token = deployed.token()
        assert await status("/orchestrate", Authorization=f"Bearer {token}") == 426
        async with http.ws_connect(f"{deployed.service.url}/orchestrate", **joining({}, token)) as socket_:
            assert json.loads((await socket_.receive()).data)["type"] == "session"
    assert "/orchestrate" in deployed.access_log.read_text()
    assert token not in deployed.access_log.read_text()


async def test_a_call_and_a_rejoin(deployed: Deployed) -> None:
    """A spoken question is answered aloud; after its WebSocket broke, the caller is in the same conversation."""
    deployed.service.token = deployed.token  # type: ignore[method-assign]
    async with RoamingCaller([deployed.service], trusted=deployed.trusted) as caller:
        await caller.peer.say(speak("what can you do"))
        await caller.hears("playback_start")
        await caller.peer.hears_agent(within_s=10)
        caller.breaks()
        assert is_same(await caller.hears("session"), caller.session)
        await caller.hears("playback_start")  # of the rest, in the call that it offers
        assert len(caller.peers) == 2
        await caller.peer.hears_agent(within_s=10)


async def test_orch_chat(deployed: Deployed) -> None:
    """`ORCH_TOKEN=$(orch token --key private.json) orch chat --url https://…`."""
    trust = {"SSL_CERT_FILE": str(deployed.folder / "cert.pem"), "ORCH_TOKEN": deployed.token()}
    env = environment(deployed.folder / "elsewhere") | trust
    chat = await asyncio.to_thread(orch_process, "chat", "--url", deployed.service.url, env=env, stdin="hello\n")
    assert chat.returncode == 0, chat.stderr
    assert "the conversation is over (goodbye)" in chat.stderr


@pytest.mark.browser
@pytest.mark.skipif(chromium_path() is None, reason="no Chromium on this machine (set ORCH_CHROMIUM, or install it)")
async def test_the_page(deployed: Deployed) -> None:
    """It asks for a token once; then an operator talks with the agent."""
    async with Chromium(flags=("--ignore-certificate-errors",)) as page:
        await page.goto(deployed.service.url)
        assert "show a token" in await page.evaluate("document.body.innerText")
        token = deployed.token("operate,text,voice")
        await page.evaluate(f"fetch('login', {{method: 'POST', body: new URLSearchParams({{token: '{token}'}})}})")
        await page.goto(deployed.service.url)
        await page.click("#start-call")
        await page.wait_for("orch.call === 'on' && orch.phase === 'LISTENING'")
        await page.click("#typed")
        await page.type_text("hello")
        await page.press("Enter", "\r")
        await page.wait_for("orch.conversation.some(({who}) => who === 'agent')")
        await page.wait_for("orch.maxRemoteLevel() > 0.02")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
