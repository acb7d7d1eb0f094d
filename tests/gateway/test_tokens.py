"""Who may open a conversation: each kind of wrong token is refused before anything is made, beside a good one."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt import PyJWK
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from orchestrator.gateway.access.guard import by_tokens
from orchestrator.gateway.access.keys import LOOK_AGAIN_S, FileKeys, FixedKeys
from orchestrator.gateway.access.tokens import LONGEST, Tokens
from tests.door import joining, refused
from tests.gateway.conftest import Serve
from tests.gateway.talker import Service, Talker

ISSUER, AUDIENCE = "https://shop.example", "orch"
MADE = {
    "ed": (Ed25519PrivateKey.generate(), OKPAlgorithm, "EdDSA"),
    "ec": (ec.generate_private_key(ec.SECP256R1()), ECAlgorithm, "ES256"),
    "rsa": (rsa.generate_private_key(65537, 2048), RSAAlgorithm, "RS256"),
}
SECRET = "q" * 40


def jwk(name: str, **more: str) -> dict[str, Any]:
    """The public part of a key."""
    private, kind, algorithm = MADE[name]
    raw: dict[str, Any] = json.loads(kind.to_jwk(private.public_key()))
    raw.pop("key_ops", None)
    return raw | {"kid": name, "alg": algorithm} | more


SHARED = {"kty": "oct", "kid": "shared", "alg": "HS256", "k": base64.urlsafe_b64encode(SECRET.encode()).decode()}
KEYS = [*map(jwk, MADE), SHARED]
NUMBERS = iter(range(10**6))


def claims(**other: Any) -> dict[str, Any]:
    """Those of a good token; None leaves one out."""
    now = int(time.time())
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "anna",
        "jti": f"token-{next(NUMBERS)}",
        "iat": now,
        "exp": now + 60,
        "orch": {"may": ["voice", "text"]},
    }
    return {name: value for name, value in (good | other).items() if value is not None}


def token(key: str = "ed", *, head: dict[str, Any] | None = None, algorithm: str = "", **other: Any) -> str:
    private, own = (SECRET, "HS256") if key == "shared" else (MADE[key][0], MADE[key][2])
    return jwt.encode(claims(**other), private, algorithm=algorithm or own, headers={"kid": key} | (head or {}))


def unsigned(**head: str) -> str:
    parts = [{"typ": "JWT", "kid": "ed"} | head, claims()]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*coded, ""])


def signed_with_a_public_key() -> str:
    """The classic mix-up: HMAC with the RSA key's public part, which everybody knows, as its secret."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "HS256", "kid": "rsa"}, claims())
    )
    from hmac import digest

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = MADE["rsa"][0].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    made = base64.urlsafe_b64encode(digest(public, f"{head}.{body}".encode(), "sha256")).decode().rstrip("=")
    return f"{head}.{body}.{made}"


def signed_with_a_key_that_it_brings() -> str:
    made = Ed25519PrivateKey.generate()
    brought = json.loads(OKPAlgorithm.to_jwk(made.public_key()))
    return jwt.encode(claims(), made, "EdDSA", {"kid": "ed", "jwk": brought, "jku": "https://evil.example/jwks"})


def tampered(token: str) -> str:
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    changed = json.dumps(claims | {"sub": "mallory"}).encode()
    return ".".join([head, base64.urlsafe_b64encode(changed).decode().rstrip("="), signature])


HOUR = 3600
WRONG: dict[str, tuple[Callable[[], str], int]] = {
    "missing": (lambda: "", 401),
    "no token at all": (lambda: "hello", 401),
    "expired": (lambda: token(exp=int(time.time()) - 31), 401),
    "expired, without leeway": (lambda: token(exp=0), 401),
    "not yet valid": (lambda: token(nbf=int(time.time()) + 60), 401),
    "valid for too long": (lambda: token(exp=int(time.time()) + 2 * HOUR), 401),
    "of another audience": (lambda: token(aud="elsewhere"), 401),
    "of another issuer": (lambda: token(iss="https://evil.example"), 401),
    "without an expiry": (lambda: token(exp=None), 401),
    "without an id": (lambda: token(jti=None), 401),
    "with an empty id": (lambda: token(jti=""), 401),
    "without a subject": (lambda: token(sub=None), 401),
    "with an empty subject": (lambda: token(sub=""), 401),
    "without an audience": (lambda: token(aud=None), 401),
    "without an issuer": (lambda: token(iss=None), 401),
    "of an unknown key": (lambda: token(head={"kid": "nobody"}), 401),
    "of no key": (lambda: token(head={"kid": ""}), 401),
    "of another key's name": (lambda: token(head={"kid": "ec"}), 401),
    "signed by a key of the same kind": (
        lambda: jwt.encode(claims(), Ed25519PrivateKey.generate(), "EdDSA", {"kid": "ed"}),
        401,
    ),
    "with its own key in its head": (signed_with_a_key_that_it_brings, 401),
    "none": (lambda: unsigned(alg="none"), 401),
    "None": (lambda: unsigned(alg="None"), 401),
    "another algorithm of the key": (lambda: token("rsa", algorithm="PS256"), 401),
    "HMAC with a public key": (signed_with_a_public_key, 401),
    "HMAC for a signature": (lambda: token("shared", head={"kid": "ed"}), 401),
    "a stronger HMAC than its key's": (lambda: token("shared", algorithm="HS512"), 401),
    "tampered": (lambda: tampered(token()), 401),
    "cut": (lambda: token()[:-3], 401),
    "oversized": (lambda: token(pad="x" * LONGEST), 401),
    "not allowed to call": (lambda: token(orch={"may": ["operate"]}), 403),
    "allowed nothing": (lambda: token(orch={}), 403),
    "without a grant": (lambda: token(orch=None), 403),
    "an unknown right": (lambda: token(orch={"may": ["everything"]}), 401),
    "a grant that is none": (lambda: token(orch="all"), 401),
    "a grant that names its subject": (lambda: token(orch={"may": ["text"], "subject": "root"}), 401),
    "a limit below nothing": (lambda: token(orch={"may": ["text"], "seconds": -1}), 401),
}


def tokens_of(*keys: dict[str, Any]) -> Any:
    known = {key["kid"]: PyJWK(key) for key in keys}
    return by_tokens(Tokens(FixedKeys(known), issuer=ISSUER, audience=AUDIENCE))


@pytest.fixture
async def service(serve: Serve) -> Service:
    return await serve(authenticate=tokens_of(*KEYS), max_sessions=1_000)


async def enter(http: aiohttp.ClientSession, service: Service, shown: str) -> Talker:
    return Talker(await http.ws_connect(f"{service.url}/orchestrate", **joining({}, shown)))


@pytest.mark.parametrize("key", [*MADE, "shared"])
async def test_a_good_token_opens_a_conversation(http: aiohttp.ClientSession, service: Service, key: str) -> None:
    client = await enter(http, service, token(key))
    session = await client.spoken()
    assert client.socket.protocol == "orch.v1"
    assert service.running.node.session(session["session_id"]) is not None


@pytest.mark.parametrize("kind", WRONG)
async def test_a_wrong_token_is_refused_before_anything_is_made(
    http: aiohttp.ClientSession, service: Service, kind: str
) -> None:
    """An HTTP status in place of the WebSocket: no session, no task, no key in Redis. A good token beside it works."""
    make, status = WRONG[kind]
    shown = make()
    node = service.running.node
    beside = await enter(http, service, token())
    await beside.listening()
    before = len(node.sessions), {one async for one in node._redis.scan_iter("*token*")}
    tasks = len(asyncio.all_tasks())
    async with http.get(f"{service.url}/orchestrate", headers={"Authorization": f"Bearer {shown}"}) as answer:
        text = await answer.text()
        assert answer.status == status, text
        assert shown not in text or not shown
        assert (answer.headers.get("WWW-Authenticate") == "Bearer") == (status == 401)
    if len(shown) < LONGEST:  # aiohttp reads no longer header
        assert await refused(http, service.url, token=shown) == status
    assert (len(node.sessions), {one async for one in node._redis.scan_iter("*token*")}) == before
    assert len(asyncio.all_tasks()) <= tasks
    assert node.counters["access_refused"] >= 1
    await beside.say("text", text="hello")
    await beside.until("reply")


async def test_a_token_opens_one_conversation(http: aiohttp.ClientSession, service: Service) -> None:
    """403 when it is shown again after the first input, also at the same time from elsewhere."""
    shown = token()
    client = await enter(http, service, shown)
    await client.spoken()
    assert await refused(http, service.url, token=shown) == 403
    await client.say("goodbye")
    await client.closed()
    assert await refused(http, service.url, token=shown) == 403


async def test_a_token_shown_again_before_its_conversation_began_is_no_second_opening(
    http: aiohttp.ClientSession, service: Service
) -> None:
    """The same session, so that a crash in between locks nobody out; the older connection is replaced."""
    shown = token()
    first = await enter(http, service, shown)
    session = await first.listening()
    second = await enter(http, service, shown)
    again = await second.listening()
    assert again["session_id"] == session["session_id"]
    assert await first.closed() == 1008
    await second.say("text", text="hello")
    await second.until("reply")
    assert await refused(http, service.url, token=shown) == 403


async def test_keys_are_rotated_under_load(serve: Serve, tmp_path: Path) -> None:
    """100 openings a second with the old key and the new one: none is refused, and a removed key counts no longer."""
    file = tmp_path / "keys.json"

    def publish(*keys: dict[str, Any]) -> None:
        fresh = tmp_path / "fresh.json"
        fresh.write_text(json.dumps({"keys": keys}))
        fresh.replace(file)

    publish(jwk("ec"))
    check = by_tokens(Tokens(FileKeys(file), issuer=ISSUER, audience=AUDIENCE))
    service = await serve(authenticate=check, max_sessions=1_000)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def open_with(key: str) -> str:
            client = await enter(http, service, token(key))
            session = await client.until("session")
            return str(session["session_id"])

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            openings, began = [], time.monotonic()
            for number in range(200):
                if number == 50:
                    publish(jwk("ec"), jwk("ed"))
                if number == 150:
                    publish(jwk("ed"))
                openings.append(group.create_task(open_with("ec" if number < 50 else "ed")))
                await asyncio.sleep(max(0.0, began + number / 100 - time.monotonic()))
        assert len({opening.result() for opening in openings}) == 200
        deadline_s = time.monotonic() + 2 * LOOK_AGAIN_S
        statuses = [await refused(http, service.url, token=token("ed"))]
        while statuses[-1] == 101 and time.monotonic() < deadline_s:
            statuses.append(await refused(http, service.url, token=token("ec")))
        assert statuses[-1] == 401
