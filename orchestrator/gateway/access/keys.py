"""The keys that tokens are checked with: a JWKS file or https address, read again when it changes.

Each key has an id and exactly one algorithm, so a token cannot choose how it is checked.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt import PyJWK
from jwt.algorithms import OKPAlgorithm
from jwt.exceptions import InvalidKeyError, PyJWKError

from orchestrator.gateway.access.refusal import AccessRefused
from orchestrator.safe_text import safe_error, safe_url

logger = logging.getLogger(__name__)

ALGORITHMS = frozenset(
    {
        "EdDSA",
        "ES256",
        "ES384",
        "ES512",
        "RS256",
        "RS384",
        "RS512",
        "PS256",
        "PS384",
        "PS512",
        "HS256",
        "HS384",
        "HS512",
    }
)
SHORTEST_SECRET = 32
"""Bytes of a shared secret (RFC 7518, 3.2)."""
SHORTEST_RSA = 2048
LONGEST = 256 * 1024
"""Bytes of a JWKS document."""
FETCH_S = 5.0
LOOK_AGAIN_S = 1.0
"""How often a file is looked at, at most."""
FETCH_AGAIN_S = 300.0
"""How often an address is asked without a reason. A key that was withdrawn there counts no longer after this time, if
the address answers within REFRESH_S."""
REFRESH_S = 1.0
"""How long a caller waits for such an answer."""
UNKNOWN_S = 5.0
"""How often an address is asked at most, because a token names a key that is not known."""
STALE_S = 3600.0
"""How long keys count that could not be read again."""


class KeysError(ValueError):
    """The keys cannot be used; the message says why, and never quotes a key."""


class UnknownKeyError(KeysError):
    """The key is of a kind, or for an algorithm, that is not known here."""


def read_jwks(text: str | bytes, *, has_secrets: bool) -> dict[str, PyJWK]:
    """Key id → key. `has_secrets`: our own file, which may have shared secrets (`oct`) and must have no mistake. Of
    the keys of others, those of a kind that is not known here are passed over (RFC 7517, 5). Raises KeysError.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise KeysError("it is not JSON") from None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list):
        raise KeysError('it is no JWKS: it must be {"keys": […]} (RFC 7517)')
    read: dict[str, PyJWK] = {}
    for number, raw in enumerate(keys, 1):
        if not isinstance(raw, dict):
            raise KeysError(f"key {number} is no object")
        if raw.get("use", "sig") != "sig":
            continue
        try:
            kid, key = _read(raw, f"key {number}", has_secrets=has_secrets)
        except UnknownKeyError as error:
            if has_secrets:
                raise
            logger.warning("a key is passed over: %s", error)
            continue
        if kid in read:
            raise KeysError(f"two keys have the kid {kid[:80]!r}")
        read[kid] = key
    if not read:
        raise KeysError("it has no key for signatures")
    return read


def _read(raw: dict[str, Any], name: str, *, has_secrets: bool) -> tuple[str, PyJWK]:
    kid = raw.get("kid")
    if not isinstance(kid, str) or not kid:
        raise KeysError(f"{name} has no kid: tokens name their key by it")
    name = f"the key {kid[:80]!r}"
    if raw.get("kty") == "oct" and not has_secrets:
        raise KeysError(f"{name} is a shared secret; an address that others read may have public keys alone")
    try:
        key = PyJWK(raw)
    except (InvalidKeyError, PyJWKError, ValueError, TypeError, KeyError) as error:
        raise UnknownKeyError(f"{name} cannot be read ({type(error).__name__})") from None
    if key.algorithm_name not in ALGORITHMS:
        raise UnknownKeyError(f"{name} has the algorithm {key.algorithm_name[:20]!r}; use EdDSA, ES256 or RS256")
    if isinstance(key.key, bytes) and len(key.key) < SHORTEST_SECRET:
        raise KeysError(f"{name} is shorter than {SHORTEST_SECRET} bytes: anybody could guess it")
    if raw.get("kty") == "RSA" and key.key.key_size < SHORTEST_RSA:
        raise KeysError(f"{name} has {key.key.key_size} bits; RSA keys need {SHORTEST_RSA}")
    return kid, key


def signing_key(text: str | bytes) -> PyJWK:
    """The only key of a JWKS of our own, with its private part. Raises KeysError."""
    found = read_jwks(text, has_secrets=True)
    if len(found) > 1:
        raise KeysError(f"it has {len(found)} keys: a token is signed with one")
    (key,) = found.values()
    if not (isinstance(key.key, bytes) or hasattr(key.key, "sign")):
        raise KeysError(f"the key {str(key.key_id)[:80]!r} has no private part: name the file with the private key")
    return key


def read_file(path: Path) -> bytes:
    """The content of a JWKS file; its mode stays as it is. Raises KeysError."""
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST + 1)
    except OSError as error:
        raise KeysError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(text) > LONGEST:
        raise KeysError(f"{path} is longer than {LONGEST} bytes")
    return text


def new_pair() -> tuple[dict[str, Any], dict[str, Any]]:
    """A new Ed25519 key as JWK: with its private part, and without."""
    made = Ed25519PrivateKey.generate()
    private, public = (json.loads(OKPAlgorithm.to_jwk(one)) for one in (made, made.public_key()))
    named = {"kid": token_hex(8), "alg": "EdDSA", "use": "sig"}
    return {one: value for one, value in (private | named).items() if one != "key_ops"}, {
        one: value for one, value in (public | named).items() if one != "key_ops"
    }


class FixedKeys:
    """Keys that never change, such as the one in the data directory."""

    def __init__(self, keys: Mapping[str, PyJWK]) -> None:
        self._keys = keys

    async def find(self, kid: str) -> PyJWK | None:
        return self._keys.get(kid)


class FileKeys:
    """The keys of a JWKS file. `find` reads it again when it was changed, so a rotation needs no restart."""

    def __init__(self, path: Path) -> None:
        """Raises KeysError when the file cannot be used."""
        self._path = path
        self._looked_s = time.monotonic()
        self._stamp, self._keys = self._read()

    async def find(self, kid: str) -> PyJWK | None:
        """The key of this id; None: there is none."""
        if time.monotonic() - self._looked_s >= LOOK_AGAIN_S or kid not in self._keys:
            self._look()
        return self._keys.get(kid)

    def _look(self) -> None:
        """Read the file if it was changed. A file that cannot be used leaves the keys as they are: it is being written,
        or a mistake, and callers must not pay for either.
        """
        self._looked_s = time.monotonic()
        with suppress(OSError):
            if self._stamp_now() == self._stamp:
                return
        try:
            self._stamp, self._keys = self._read()
        except KeysError as error:
            logger.error("ORCH_AUTH_KEYS was changed and cannot be used; the keys before go on counting: %s", error)  # noqa: TRY400
            return
        logger.info("ORCH_AUTH_KEYS was read again: %d keys", len(self._keys))

    def _stamp_now(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> tuple[tuple[int, int, int], dict[str, PyJWK]]:
        try:
            stamp = self._stamp_now()
        except OSError as error:
            raise KeysError(f"{self._path} cannot be read: {error.strerror or error}") from None
        text = read_file(self._path)
        try:
            return stamp, read_jwks(text, has_secrets=True)
        except KeysError as error:
            raise KeysError(f"{self._path}: {error}") from None


class AddressKeys:
    """The keys of an https address. `find` asks it again for an unknown key, and every FETCH_AGAIN_S."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, PyJWK] = {}
        self._fetched_s = self._tried_s = -STALE_S
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str) -> PyJWK | None:
        """The key of this id; None: there is none. Raises AccessRefused (503) when the address does not answer."""
        now_s = time.monotonic()
        if kid not in self._keys or now_s - self._fetched_s >= STALE_S:
            if self._fetching is not None or now_s - self._tried_s >= UNKNOWN_S:
                await asyncio.shield(self._fetch_once())
        elif now_s - self._fetched_s >= FETCH_AGAIN_S and (
            self._fetching is not None or now_s - self._tried_s >= UNKNOWN_S
        ):
            await asyncio.wait([self._fetch_once()], timeout=REFRESH_S)
        if time.monotonic() - self._fetched_s >= STALE_S:
            raise AccessRefused("tokens cannot be checked now: the keys cannot be read; try again later", 503)
        return self._keys.get(kid)

    async def close(self) -> None:
        """Stop a request that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _fetch_once(self) -> asyncio.Task[None]:
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch(), name="keys")
            self._fetching.add_done_callback(self._fetched)
        return self._fetching

    def _fetched(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        self._tried_s = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=FETCH_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.get(self._url, allow_redirects=False, headers={"Accept": "application/json"}) as answer,
            ):
                self._keys = read_jwks(await _body(answer), has_secrets=False)
        except (aiohttp.ClientError, TimeoutError, OSError, KeysError) as error:
            logger.warning("the keys of %s cannot be used: %s", safe_url(self._url), safe_error(error))
            return
        self._fetched_s = time.monotonic()


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    if answer.status != 200:
        raise KeysError(f"it answers {answer.status}")
    text = b""
    async for part in answer.content.iter_chunked(64 * 1024):
        text += part
        if len(text) > LONGEST:
            raise KeysError(f"it is longer than {LONGEST} bytes")
    return text
