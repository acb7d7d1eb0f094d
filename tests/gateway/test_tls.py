"""TLS of the gateway itself: a certificate that is renewed needs no restart; ICE servers are sent over it."""

import asyncio
import base64
import datetime
import hmac
import ipaddress
import socket
import ssl
import time
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from orchestrator.gateway import tls
from orchestrator.gateway.door import Connections, OwnDoor, SharedDoor, listening
from orchestrator.gateway.ice_servers import IceServers
from orchestrator.gateway.origin import AllowedNames
from orchestrator.runtime.counters import Counters
from orchestrator.settings import Settings, SettingsError
from tests.gateway.conftest import Serve
from tests.gateway.talker import Talker


def write_certificate(folder: Path, serial: int, address: str = "127.0.0.1") -> ssl.SSLContext:
    """A new key with a certificate of its own for localhost and an address; returns what a client needs to trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    numeric = x509.IPAddress(ipaddress.ip_address(address))
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), serial)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), numeric]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(Encoding.PEM)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "cert.pem").write_bytes(pem)
    return ssl.create_default_context(cadata=pem.decode())


async def test_a_renewed_certificate_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken one is not: the one before goes on."""
    monkeypatch.setattr(tls, "LOOK_S", 0.05)
    first = write_certificate(tmp_path, 1)

    async with (
        tls.tls(tmp_path / "cert.pem", tmp_path / "key.pem") as context,
        listening(saying("alive"), Connections(1, Counters()), [OwnDoor("127.0.0.1", 0)], context) as (_, port),
    ):

        async def ask(trusted: ssl.SSLContext) -> str:
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"https://localhost:{port}", ssl=trusted) as answer,
            ):
                return await answer.text()

        assert await ask(first) == "alive"
        (tmp_path / "cert.pem").write_text("half a certificate")
        deadline_s = time.monotonic() + 10 * tls.LOOK_S
        while time.monotonic() < deadline_s:
            assert await ask(first) == "alive"
        second = write_certificate(tmp_path, 2)
        answers: list[str] = []
        while not answers:
            try:
                answers.append(await ask(second))
            except aiohttp.ClientConnectorCertificateError:
                continue  # it still has the first one
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(first)


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("https://HERE", True),
        ("http://HERE", False),
        ("https://HERE.evil.example", False),
        ("https://localhost", False),
    ],
)
async def test_over_tls_a_page_of_the_service_comes_from_https(tmp_path: Path, origin: str, may: bool) -> None:
    """Also where the service listens on all addresses, so that it knows no URL of its own."""
    trusted = write_certificate(tmp_path, 1)
    names = AllowedNames(is_private=False)
    app = web.Application()

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(names.may_connect(request))

    app.router.add_get("/", answer)
    async with (
        tls.tls(tmp_path / "cert.pem", tmp_path / "key.pem") as context,
        listening(app, Connections(1, Counters()), [OwnDoor("127.0.0.1", 0)], context) as (_, port),
        aiohttp.ClientSession() as http,
        http.get(
            f"https://127.0.0.1:{port}/",
            ssl=trusted,
            headers={"Origin": origin.replace("HERE", f"127.0.0.1:{port}")},
        ) as answered,
    ):
        assert await answered.json() is may


async def test_a_certificate_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    write_certificate(tmp_path, 1)
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        async with tls.tls(tmp_path / "nowhere.pem", tmp_path / "key.pem"):
            pass
    (tmp_path / "cert.pem").write_text("none")
    with pytest.raises(SettingsError, match="are no certificate with its key in PEM"):
        async with tls.tls(tmp_path / "cert.pem", tmp_path / "key.pem"):
            pass
    with pytest.raises(SettingsError, match="ORCH_TLS_CERT and ORCH_TLS_KEY belong together"):
        Settings(tls_cert=tmp_path / "cert.pem")


async def test_each_client_gets_ice_servers_with_credentials_of_its_own(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    """As coturn checks them: the password is the HMAC-SHA1 of the user name, which begins with the time of expiry."""
    urls = ("stun:turn.example", "turn:turn.example", "turns:turn.example?transport=tcp")
    service = await serve(ice_servers=IceServers(urls, "shared with coturn"))
    clients = [Talker(await http.ws_connect(f"{service.url}/orchestrate")) for _ in range(2)]
    sessions = [await client.listening() for client in clients]
    for session in sessions:
        stun, turn = session["ice_servers"]
        assert stun == {"urls": ["stun:turn.example"]}
        assert turn["urls"] == list(urls[1:])
        expires, _, name = turn["username"].partition(":")
        assert name == session["session_id"]
        assert 0 < int(expires) - time.time() <= 24 * 3600
        mac = hmac.digest(b"shared with coturn", turn["username"].encode(), "sha1")
        assert base64.b64decode(turn["credential"]) == mac
    assert sessions[0]["ice_servers"] != sessions[1]["ice_servers"]
    with pytest.raises(SettingsError, match="ORCH_TURN_SECRET is missing"):
        Settings(ice_servers="turn:turn.example")
    for wrong in ("http://turn.example", "turn:", "turn:a?transport=x"):
        with pytest.raises(SettingsError, match="each must be stun:HOST or turn:HOST"):
            Settings(ice_servers=wrong)


@pytest.mark.parametrize(
    "wrong",
    ["stun:turn.example", "turn:[::1]:3478", "turn:h:abc", "turn:a:b:c", "turns:h?transport=udp", "turn:a turn:b"],
)
def test_a_relay_that_no_call_could_use_is_refused_at_the_start(wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"ORCH_RELAY.* it must be one TURN server"):
        Settings(relay=wrong, turn_secret="shared with coturn")


@pytest.mark.parametrize("right", ["turn:turn.example", "turn:10.0.0.1:3478?transport=tcp", "turns:turn.example:5349"])
def test_a_relay_needs_the_secret_of_its_server(right: str) -> None:
    assert Settings(relay=right, turn_secret="shared with coturn").relay == right
    with pytest.raises(SettingsError, match="ORCH_TURN_SECRET is missing"):
        Settings(relay=right)


def saying(name: str) -> web.Application:
    async def say(_: web.Request) -> web.Response:
        return web.Response(text=name)

    app = web.Application()
    app.router.add_get("/", say)
    return app


async def test_of_two_doors_at_one_socket_the_one_that_may_accepts(tmp_path: Path) -> None:
    """Over TLS, as two processes of a service listen; what both refuse waits until one may accept."""
    trusted = write_certificate(tmp_path, 1)
    with socket.create_server(("127.0.0.1", 0)) as listener, listener.dup() as the_same:
        may = [False, True]
        doors = [SharedDoor(listener, lambda: may[0]), SharedDoor(the_same, lambda: may[1])]
        listener.setblocking(False)
        async with AsyncExitStack() as stack:
            context = await stack.enter_async_context(tls.tls(tmp_path / "cert.pem", tmp_path / "key.pem"))
            for name, door in zip("ab", doors, strict=True):
                serving = listening(saying(name), Connections(9, Counters()), [door], context)
                at = await stack.enter_async_context(serving)

            async def ask() -> str:
                async with aiohttp.ClientSession() as http, http.get(f"https://localhost:{at[1]}", ssl=trusted) as got:
                    return await got.text()

            assert [door.look() for door in doors] == may
            assert [await ask() for _ in range(3)] == ["b"] * 3
            may[:] = [True, False]
            assert [door.look() for door in doors] == may
            assert await ask() == "a"
            may[:] = [False, False]
            waiting = asyncio.create_task(ask())
            assert not any(door.look() for door in doors)
            assert await asyncio.wait([waiting], timeout=0.1) == (set(), {waiting})
            may[1] = True
            doors[1].look()
            assert await waiting == "b"
