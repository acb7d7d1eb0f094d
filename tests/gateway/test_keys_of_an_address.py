"""Keys from an address: read when needed, read again for a key that is not known, kept while the address is down."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import pytest
from aiohttp import web

from orchestrator.gateway.access import keys
from orchestrator.gateway.access.keys import LONGEST, AddressKeys
from orchestrator.gateway.access.refusal import AccessRefused
from orchestrator.gateway.access.tokens import Tokens
from orchestrator.gateway.door import Connections, OwnDoor, listening
from orchestrator.runtime.counters import Counters
from tests.gateway.test_tls import write_certificate
from tests.gateway.test_tokens import AUDIENCE, ISSUER, SHARED, jwk, token
from tests.runtime.support import soon


@dataclass
class Address:
    """A JWKS behind HTTP, which counts how often it was asked."""

    url: str = ""
    published: list[dict[str, Any]] = field(default_factory=list)
    answer: Callable[[], web.Response] | None = None
    """In place of the keys."""
    asked: int = 0
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, _: web.Request) -> web.Response:
        self.asked += 1
        await self.may_answer.wait()
        return self.answer() if self.answer else web.json_response({"keys": self.published})

    @property
    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/jwks", self.serve)
        return app


@pytest.fixture
async def address() -> AsyncIterator[Address]:
    found = Address(published=[jwk("ed")])
    found.may_answer.set()
    async with listening(found.app, Connections(9, Counters()), [OwnDoor("127.0.0.1", 0)]) as (host, port):
        found.url = f"http://{host}:{port}/jwks"
        yield found
        found.may_answer.set()


@pytest.fixture
async def read(address: Address) -> AsyncIterator[AddressKeys]:
    found = AddressKeys(address.url)
    yield found
    await found.close()


async def test_they_are_read_once_for_all_who_wait(address: Address, read: AddressKeys) -> None:
    """Tokens are checked with them; nothing is asked before the first token."""
    check = Tokens(read, issuer=ISSUER, audience=AUDIENCE)
    assert address.asked == 0
    grants = await asyncio.gather(*(check.read(token()) for _ in range(20)))
    assert {grant.subject for grant in grants} == {"anna"}
    assert address.asked == 1


async def test_a_rotation_refuses_nobody(address: Address, read: AddressKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new key is fetched for the first token that names it. A withdrawn key counts until the next reading."""
    monkeypatch.setattr(keys, "UNKNOWN_S", 0)
    assert await read.find("ed")
    address.published = [jwk("ed"), jwk("ec")]
    assert all(await asyncio.gather(*(read.find(kid) for kid in ("ec", "ed") * 10)))
    address.published = [jwk("ec")]
    assert await read.find("ed")
    monkeypatch.setattr(keys, "FETCH_AGAIN_S", 0)
    assert await read.find("ed") is None
    assert await read.find("ec")
    address.published = []
    address.may_answer.clear()
    monkeypatch.setattr(keys, "UNKNOWN_S", 60)
    read._tried_s -= 61
    several = asyncio.gather(*(read.find("ec") for _ in range(3)))
    await soon(lambda: read._fetching is not None)
    address.published, address.may_answer = [jwk("ed")], address.may_answer
    address.may_answer.set()
    assert await several == [None] * 3, "all who come at that time wait for the reading"
    monkeypatch.setattr(keys, "UNKNOWN_S", 0)
    address.published = [jwk("ec")]
    assert await read.find("ec")
    monkeypatch.setattr(keys, "REFRESH_S", 0.01)
    address.may_answer.clear()
    assert await read.find("ec"), "nobody is kept waiting by an address that is slow"


@pytest.mark.parametrize(
    "other",
    [
        {"kty": "AKP", "alg": "ML-DSA-65", "kid": "new", "pub": "AAAA"},
        {"kty": "RSA", "alg": "RSA-OAEP", "kid": "for encryption", "n": "AQAB", "e": "AQAB"},
        {"kty": "EC", "crv": "secp256k1", "kid": "of wallets", "x": "AQAB", "y": "AQAB"},
    ],
    ids=lambda other: other["kid"],
)
async def test_a_key_of_an_unknown_kind_is_passed_over(
    address: Address, read: AddressKeys, caplog: pytest.LogCaptureFixture, other: dict[str, str]
) -> None:
    """The issuer may publish it for others. In a file of our own it is a mistake, which is told."""
    address.published = [other, jwk("ed")]
    assert await read.find("ed")
    assert await read.find(other["kid"]) is None
    assert "a key is passed over" in caplog.text
    with pytest.raises(keys.KeysError, match=other["kid"]):
        keys.read_jwks(json.dumps({"keys": [other, jwk("ed")]}), has_secrets=True)


async def test_made_up_keys_do_not_make_it_ask_more_often(address: Address, read: AddressKeys) -> None:
    """Once in UNKNOWN_S."""
    assert [await read.find(f"made up {number}") for number in range(100)] == [None] * 100
    assert address.asked == 1


WRONG: dict[str, Callable[[], web.Response]] = {
    "an error": lambda: web.Response(status=500),
    "elsewhere": lambda: web.Response(status=302, headers={"Location": "http://evil.example/jwks"}),
    "a page": lambda: web.Response(text="<html>sign in</html>"),
    "no keys": lambda: web.json_response({"keys": []}),
    "a shared secret": lambda: web.json_response({"keys": [SHARED]}),
    "too much": lambda: web.json_response({"keys": [jwk("ed") | {"pad": "x" * LONGEST}]}),
}


@pytest.mark.parametrize("what", WRONG)
async def test_an_answer_that_is_no_jwks_leaves_the_keys_as_they_are(
    address: Address, read: AddressKeys, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Before the first keys callers are asked to try again later; known keys go on counting. The log says why."""
    monkeypatch.setattr(keys, "UNKNOWN_S", 0)
    address.answer = WRONG[what]
    with pytest.raises(AccessRefused, match="tokens cannot be checked now") as refused:
        await read.find("ed")
    assert refused.value.status == 503
    assert refused.value.response().headers["Retry-After"] == "1"
    address.answer = None
    assert await read.find("ed")
    address.answer = WRONG[what]
    assert await read.find("ec") is None
    assert await read.find("shared") is None
    assert await read.find("ed")
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert "cannot be used" in caplog.text


async def test_keys_count_for_a_while_when_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nobody is let in, and a few seconds after it answers again, everybody is."""
    monkeypatch.setattr(keys, "UNKNOWN_S", 0)
    address = Address(published=[jwk("ed")])
    address.may_answer.set()
    async with AsyncExitStack() as up:
        at = await up.enter_async_context(listening(address.app, Connections(9, Counters()), [OwnDoor("127.0.0.1", 0)]))
        read = AddressKeys(f"http://127.0.0.1:{at[1]}/jwks")
        assert await read.find("ed")
    assert await read.find("ed")
    assert await read.find("ec") is None
    monkeypatch.setattr(keys, "STALE_S", 0)
    with pytest.raises(AccessRefused, match="tokens cannot be checked now"):
        await read.find("ed")
    monkeypatch.setattr(keys, "STALE_S", 3600)
    address.published = [jwk("ec")]
    async with listening(address.app, Connections(9, Counters()), [OwnDoor(*at)]):
        assert await read.find("ec")
    await read.close()


async def test_an_address_that_does_not_answer_is_not_waited_for_long(
    address: Address, read: AddressKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FETCH_S; and a service that stops does not wait at all."""
    address.may_answer.clear()
    monkeypatch.setattr(keys, "FETCH_S", 0.1)
    with pytest.raises(AccessRefused, match="tokens cannot be checked now"):
        await read.find("ed")
    monkeypatch.setattr(keys, "FETCH_S", 60)
    monkeypatch.setattr(keys, "UNKNOWN_S", 0)
    waiting = asyncio.create_task(read.find("ed"))
    await soon(lambda: address.asked == 2)
    async with asyncio.timeout(5):
        await read.close()
        assert isinstance(
            *await asyncio.gather(waiting, return_exceptions=True), (asyncio.CancelledError, AccessRefused)
        )


async def test_the_certificate_of_an_https_address_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of somebody on the way do not count."""
    trusted = write_certificate(tmp_path, 1)
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    address = Address(published=[jwk("ed")])
    address.may_answer.set()
    async with listening(address.app, Connections(9, Counters()), [OwnDoor("127.0.0.1", 0)], context) as (_, port):
        url = f"https://localhost:{port}/jwks"
        with pytest.raises(AccessRefused, match="tokens cannot be checked now"):
            await AddressKeys(url).find("ed")
        assert address.asked == 0
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusted)
        assert await AddressKeys(url).find("ed")
