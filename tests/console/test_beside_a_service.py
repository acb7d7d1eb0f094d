"""The console beside a running service: started by the first click on its link, ended with the service."""

import asyncio
import json
import re
from pathlib import Path
from urllib.request import urlopen

import aiohttp
import pytest

from cli.console import _serving
from cli.terminal import UsageError
from tests.cli.service import Serve, environment, orch_process
from tests.console.test_console_access import ISSUER, PUBLIC, token
from tests.gateway.test_tls import write_certificate


@pytest.mark.calls
def test_the_talk_page_leads_to_the_console(tmp_path: Path) -> None:
    """To the list, and to the page of its own session; an archive that does not exist yet is no obstacle."""
    env = environment(tmp_path)
    service = Serve(env)
    try:
        with urlopen(service.url) as page:
            assert 'id="to-console">' in page.read().decode()
        done = orch_process("chat", "--url", service.url, env=env, stdin="hello\n")
        session_id = re.search(r"auto_session_\d+", done.stderr)[0]
        with urlopen(f"{service.url}/console?session={session_id}") as page:
            address = page.url
            assert "<title>orch console</title>" in page.read().decode()
        console, _, path = address.partition("/sessions/")
        assert path == session_id
        assert not address.startswith(service.url), "a process of its own"
        with urlopen(f"{console}/api/sessions/{session_id}/log") as log:
            shown = orch_process("show", session_id, "--json", env=env)
            assert log.read().decode() == shown.stdout
        with urlopen(f"{service.url}/console") as page:
            assert page.url == f"{console}/"
    finally:
        assert service.stop() == 0, service.stderr
    with pytest.raises(OSError, match="refused"):
        urlopen(console)


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """The settings of a service that checks tokens."""
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [PUBLIC]}))
    return {"ORCH_AUTH": "keys", "ORCH_AUTH_KEYS": str(tmp_path / "keys.json"), "ORCH_AUTH_ISSUER": ISSUER}


@pytest.mark.calls
async def test_a_service_with_keys_has_a_console_with_keys(tmp_path: Path, keys: dict[str, str]) -> None:
    """A stranger sees nothing of either; who has logged in to the talk page need not do so again, and sees what the
    token allows.
    """
    service = Serve(environment(tmp_path, **keys))
    try:
        may = ("operate", "read_sessions")
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as known, aiohttp.ClientSession() as stranger:
            async with stranger.get(f"{service.url}/console") as answer:
                assert answer.status == 401
            async with known.post(f"{service.url}/login", data={"token": token(may)}) as answer:
                assert answer.status == 200
            async with known.get(f"{service.url}/console") as answer:
                console = str(answer.url)
                assert (answer.status, "<title>orch console</title>" in await answer.text()) == (200, True)
            async with known.get(f"{console}api/facts") as answer:
                assert (await answer.json())["reads_words"] is False
            async with stranger.get(f"{console}api/sessions") as answer:
                assert answer.status == 401
    finally:
        assert service.stop() == 0, service.stderr


async def test_with_a_certificate_the_console_speaks_tls(
    tmp_path: Path, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the tokens of readers would go over the network in clear text. Its own login form works, as without
    TLS; the form of another page does not.
    """
    monkeypatch.setattr("cli.console.os.nice", lambda _: 0)
    trusted = write_certificate(tmp_path, 1)
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ORCH_TLS_CERT", str(tmp_path / "cert.pem"))
    monkeypatch.setenv("ORCH_TLS_KEY", str(tmp_path / "key.pem"))
    async with _serving(str(tmp_path), "127.0.0.1", 0) as url, aiohttp.ClientSession() as http:
        assert url.startswith("https://127.0.0.1:")
        for origin, status in ((url.rstrip("/"), 303), ("https://evil.example", 403)):
            async with http.post(
                f"{url}login",
                data={"token": token(("read_sessions",))},
                headers={"Origin": origin},
                ssl=trusted,
                allow_redirects=False,
            ) as answer:
                assert answer.status == status, await answer.text()
                assert ("Secure" in answer.headers.get("Set-Cookie", "")) == (status == 303)


KEYED_AGENT = """
from orchestrator import Orchestrator, Settings

agent = Orchestrator(
    Settings(auth_keys="keys.json", auth_issuer="%s"), answer=lambda text: f"You said: {text}"
)
"""


@pytest.mark.calls
async def test_the_console_of_a_program_has_the_settings_of_the_program(tmp_path: Path, keys: dict[str, str]) -> None:
    """Its keys and its data directory, wherever they come from: a user of this machine without a token reads nothing,
    and the console shows the sessions of this service, not those of the default folder.
    """
    (tmp_path / "agent.py").write_text(KEYED_AGENT % ISSUER)
    env = environment(tmp_path, HOME=str(tmp_path / "home"), XDG_DATA_HOME=str(tmp_path / "share"))
    del env["ORCH_DATA_DIR"]
    shown = {"Authorization": f"Bearer {token(('operate', 'read_sessions', 'read_words'))}"}
    service = Serve(env, 0, "agent", cwd=tmp_path)
    try:
        talking = env | {"ORCH_TOKEN": token(("text",))}
        chat = await asyncio.to_thread(orch_process, "chat", "--url", service.url, env=talking, stdin="hello\n")
        assert chat.returncode == 0, chat.stderr
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{service.url}/console", headers=shown, allow_redirects=False) as answer:
                console = answer.headers["Location"]
            async with http.get(f"{console}api/sessions") as answer:
                assert answer.status == 401
            async with http.get(f"{console}api/sessions", headers=shown) as answer:
                assert re.search(r"auto_session_\d+", chat.stderr)[0] in await answer.text()
    finally:
        assert service.stop() == 0, service.stderr
    assert (tmp_path / "share" / "orch").is_dir()
    assert not (tmp_path / "home" / ".local").exists()


async def test_with_keys_the_console_listens_for_other_machines(
    tmp_path: Path, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without, or where everybody may come in, it does not start there."""
    from cli import console

    monkeypatch.setattr(console.os, "nice", lambda _: 0)
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    async with _serving(str(tmp_path), "0.0.0.0", 0) as url, aiohttp.ClientSession() as http:
        async with http.get(url) as answer:
            assert answer.status == 401
        async with http.get(url, headers={"Authorization": f"Bearer {token(('read_sessions',))}"}) as answer:
            assert answer.status == 200
    monkeypatch.setenv("ORCH_AUTH", "none")
    with pytest.raises(UsageError, match="set ORCH_AUTH_KEYS"):
        console.run(str(tmp_path), "0.0.0.0", 0)
