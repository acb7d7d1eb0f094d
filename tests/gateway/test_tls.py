"""TLS of the gateway itself: a certificate that is renewed needs no restart; ICE servers are sent over it."""

import base64
import datetime
import hmac
import ipaddress
import ssl
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from orchestrator.gateway import tls
from orchestrator.gateway.door import Connections, listening
from orchestrator.gateway.ice_servers import IceServers
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

    async def alive(_: web.Request) -> web.Response:
        return web.Response(text="alive")

    app = web.Application()
    app.router.add_get("/", alive)
    async with (
        tls.tls(tmp_path / "cert.pem", tmp_path / "key.pem") as context,
        listening(app, Connections(1, Counters()), "127.0.0.1", 0, context) as (_, port),
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
